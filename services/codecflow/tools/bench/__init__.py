"""`codecflow bench` and `codecflow explain`: measurements on clips, and figures that illustrate the method."""
