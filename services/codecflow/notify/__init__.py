"""Notifications: events sent to people and other systems, by a separate process that reads the events topic."""
