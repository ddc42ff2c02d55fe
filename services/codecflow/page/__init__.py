"""The live page: cameras, answers and their cost, in a browser. A plain reader of the topics: no group, no state."""
