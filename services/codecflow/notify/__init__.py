"""Notifications: events sent to people and other systems. A process of its own, behind the events topic."""
