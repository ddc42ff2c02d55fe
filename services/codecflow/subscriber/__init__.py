"""What asks and listens: a stream's questions and zones written, its answers and events followed. Both need Kafka only."""

from .questions import ask, asked, clear, question, remove
from .results import EventFollower, Follower
from .zones import read_zones, set_zones

__all__ = ["EventFollower", "Follower", "ask", "asked", "clear", "question", "read_zones", "remove", "set_zones"]
