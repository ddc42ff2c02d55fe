"""`codecflow fuzz`: damaged and hostile input for everything that reads bytes from outside, case by case, repeatably."""
