"""Events: rules that look at answers, and what a stream's events come to from one window to the next. Pure functions."""
