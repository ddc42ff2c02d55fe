"""Following answers as they are committed, from any number of programs: without a consumer group, so programs do not take
results from each other."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import ClassVar, TypeVar

from confluent_kafka import Message

from codecflow.errors import MessageError
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import Rejections, TopicTail
from codecflow.lifecycle import Closing
from codecflow.messages import Event, Result, check_stream_id, decode_event, decode_result

T = TypeVar("T")

_logger = logging.getLogger(__name__)
_POLL_S = 0.2


class TopicFollower(Closing, Iterator[T]):
    """Messages of `stream`, or of all streams, one at a time in the order of each stream's records, as they are committed.

    The start position is fixed when the follower is created: records committed later, and with `from_beginning` those that
    the topic still holds. Iteration ends after `timeout_s` seconds without a message (None: never), or once `stopping()` is
    true and everything committed until then has been returned. A record that `decode` rejects is logged and skipped; of
    many, the first few are logged, then their number once per minute. `what`: the topic, without prefix.

    Raises KafkaError when there is no such topic, no broker answers, or brokers are down for too long.
    """

    what: ClassVar[str]

    def __init__(
        self,
        settings: KafkaSettings,
        stream: str | None = None,
        *,
        from_beginning: bool = False,
        timeout_s: float | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._key = None if stream is None else check_stream_id(stream).encode()
        self._timeout_s = timeout_s
        self._stopping = stopping
        self._ended = False
        self._ready: deque[T] = deque()
        self._topic: str = getattr(settings.topics, self.what)
        self._rejections = Rejections(_logger.warning)
        self._tail = TopicTail(settings, self._topic, from_end=not from_beginning, stopping=stopping)

    @abstractmethod
    def decode(self, key: bytes | None, value: bytes | None) -> T:
        """The message in a record. Raises MessageError."""

    def __next__(self) -> T:
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while not self._ready and not self._ended:
            if self._stopping():
                self._take(self._tail.catch_up())
                self._ended = True
            else:
                self._take(self._tail.poll(_POLL_S))
                self._ended = deadline is not None and time.monotonic() > deadline
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def close(self) -> None:
        self._tail.close()

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            if self._key is not None and message.key() != self._key:
                continue
            try:
                self._ready.append(self.decode(message.key(), message.value()))
            except MessageError as error:
                self._rejections.add(message, error)
        self._rejections.report(self._topic)


class Follower(TopicFollower[Result]):
    """Results, each committed one exactly once."""

    what = "results"

    def decode(self, key: bytes | None, value: bytes | None) -> Result:
        return decode_result(key, value)


class EventFollower(TopicFollower[Event]):
    """Changes of events, each committed one exactly once."""

    what = "events"

    def decode(self, key: bytes | None, value: bytes | None) -> Event:
        return decode_event(key, value)
