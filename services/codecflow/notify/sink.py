"""What all sinks have in common: a name, which events they get, and how one is delivered."""

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
    """A delivery failed. `final`: every later try would fail as well. Its text has no address and no secret."""

    def __init__(self, text: str, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


@dataclass(frozen=True, slots=True)
class Notification:
    """What is delivered of one change. `picture`: JPEG."""

    event: Event
    text: str
    picture: bytes | None = None

    def document(self) -> dict[str, Any]:
        """Text for people and the event as it is on its topic."""
        _, value = encode_event(self.event)
        return {"text": self.text, "event": {"stream": self.event.stream, **orjson.loads(value)}}


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """`name` is that of the sink's position in the topic. `picture`: deliver a picture with each event."""

    name: str
    filter: EventFilter
    text: Text
    timeout_s: float
    picture: bool = False


class Sink(ABC):
    """Somebody who is notified. Used by one thread. Its repr shows no address, which may hold a token."""

    kind: str
    """The table of the configuration that makes one."""

    needs_streams = False
    """Whether `idle` is to be given the streams that there are."""

    def __init__(self, options: SinkOptions) -> None:
        self.options = options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options.name!r})"

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is: of its address all that may be shown."""

    @property
    def notes(self) -> str:
        """What else is worth knowing of how it is set up."""
        return ""

    @abstractmethod
    def deliver(self, notification: Notification) -> None:
        """Returns once the receiver has confirmed it. Raises UndeliveredError."""

    def idle(self, streams: Sequence[StreamDescription]) -> None:  # noqa: B027  # most have nothing to do
        """Called now and then while there is nothing to deliver: see to connections. Raises UndeliveredError."""

    def close(self) -> None:  # noqa: B027
        """Release connections."""


def key_of(event: Event) -> str:
    """The same for each try to deliver this change, and for no other."""
    return f"{event.id}-{event.number}"
