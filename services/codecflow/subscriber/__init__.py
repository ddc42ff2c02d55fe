"""Writing a stream's questions and zones, following its answers and events. Needs only Kafka."""

from .questions import ask, clear, delete_description, question, read_description, remove
from .results import EventFollower, Follower
from .zones import read_zones, set_zones

__all__ = [
    "EventFollower",
    "Follower",
    "ask",
    "clear",
    "delete_description",
    "question",
    "read_description",
    "read_zones",
    "remove",
    "set_zones",
]
