"""What all sinks share: a name, an event filter, and delivery."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from codecflow.messages import Event, StreamDescription, encode_event

from .filter import EventFilter
from .template import Text


class UndeliveredError(Exception):
    """A delivery failed. `final`: every retry would fail as well. Its text contains no address and no secret."""

    def __init__(self, text: str, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


@dataclass(frozen=True, slots=True)
class Notification:
    """The content delivered for one change. `picture`: JPEG."""

    event: Event
    text: str
    picture: bytes | None = None

    def document(self) -> dict[str, Any]:
        """Text for people, and the event's document."""
        _, value = encode_event(self.event)
        return {"text": self.text, "event": {"stream": self.event.stream, **orjson.loads(value)}}


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """`name` is also that of the sink's position in the topic. `picture`: deliver a picture with each event."""

    name: str
    filter: EventFilter
    text: Text
    timeout_s: float
    picture: bool = False


class Sink(ABC):
    """A receiver of notifications. Used by one thread. Its repr shows no address, which may contain a token."""

    kind: str
    """Its table in the configuration."""

    needs_streams = False
    """Whether `idle` needs the existing streams."""

    def __init__(self, options: SinkOptions) -> None:
        self.options = options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options.name!r})"

    @property
    @abstractmethod
    def place(self) -> str:
        """The part of its address that may be shown."""

    @property
    def notes(self) -> str:
        """Other relevant settings."""
        return ""

    @abstractmethod
    def deliver(self, notification: Notification) -> None:
        """Returns once the receiver has acknowledged it. Raises UndeliveredError."""

    def idle(self, streams: Sequence[StreamDescription]) -> None:  # noqa: B027  # most have nothing to do
        """Called periodically while there is nothing to deliver: maintain connections. Raises UndeliveredError."""

    def close(self) -> None:  # noqa: B027
        """Release connections."""


def key_of(event: Event) -> str:
    """Identical for each attempt to deliver this change, and unique to it."""
    return f"{event.id}-{event.number}"
