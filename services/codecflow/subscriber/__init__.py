"""What asks and listens: a stream's questions written, its answers followed. Both need Kafka only."""

from .questions import ask, asked, clear, question, remove
from .results import Follower

__all__ = ["Follower", "ask", "asked", "clear", "question", "remove"]
