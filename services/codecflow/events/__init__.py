"""Events: rules that evaluate answers, and a stream's events from one window to the next. Pure functions."""
