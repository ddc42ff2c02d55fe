"""`codecflow bench` and `codecflow explain`: measurements, and pictures of the method, on clips."""
