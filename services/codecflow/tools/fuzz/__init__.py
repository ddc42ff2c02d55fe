"""`codecflow fuzz`: damaged and hostile input for everything that reads external bytes, as reproducible cases."""
