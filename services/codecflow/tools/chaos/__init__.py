"""`codecflow chaos`: injects faults while streams are answered, and counts lost and duplicate results."""
