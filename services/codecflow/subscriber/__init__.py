"""What asks and listens: a stream's questions written, its answers followed. Both need Kafka only."""

from .questions import ask, asked, clear, remove
from .results import Follower

__all__ = ["Follower", "ask", "asked", "clear", "remove"]
