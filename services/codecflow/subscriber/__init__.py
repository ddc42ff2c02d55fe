"""What asks and listens: a stream's questions written, its answers and events followed. Both need Kafka only."""

from .questions import ask, asked, clear, question, remove
from .results import EventFollower, Follower

__all__ = ["EventFollower", "Follower", "ask", "asked", "clear", "question", "remove"]
