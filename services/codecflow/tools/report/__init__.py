"""Tables and charts that the tools share."""
