"""The recorder: evidence of events, as files in a folder."""
