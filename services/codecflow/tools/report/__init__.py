"""Tables and charts shared by the tools."""
