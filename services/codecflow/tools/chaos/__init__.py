"""`codecflow chaos`: faults on purpose, while streams are answered, and a count of what was lost or said twice."""
