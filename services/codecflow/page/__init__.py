"""The live page: cameras, answers and what they cost, in a browser. One more reader of the topics: no group, no state."""
