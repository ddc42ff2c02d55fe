"""Overview of all streams: which cameras send, the last answers, and problems. Read without a group."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from confluent_kafka import Message

from codecflow.errors import MessageError
from codecflow.kafka.compacted import usable_description
from codecflow.kafka.records import is_future
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.lifecycle import Closing
from codecflow.messages import (
    CameraLost,
    EndOfEpoch,
    Result,
    StreamState,
    decode_metadata,
    decode_result,
    decode_state,
)

SILENT_AFTER_S = 10.0
"""A stream that has not ended and sends no picture for this long is silent."""

_NEWEST_METADATA, _NEWEST_RESULTS = 2000, 2000
"""Records of each partition that are read first: earlier ones are ignored."""
_RATE_OVER = 100
"""Number of pictures over which a rate is measured."""


@dataclass(slots=True)
class StreamOverview:
    """One stream. `questions` by name. `seen_ms`: when its newest metadata were written, by their producer's clock; `rate`:
    pictures per second over the newest ones. `ended`: its producer has closed it. `last`: its newest result; `answers` and
    `errors`: results among those that were read; `kept` of `total` tokens of them."""

    stream: str
    questions: int = 0
    epoch: int | None = None
    seen_ms: int | None = None
    ended: bool = False
    last: Result | None = None
    answers: int = 0
    errors: int = 0
    kept: int = 0
    total: int = 0
    times_ms: deque[int] = field(default_factory=lambda: deque(maxlen=_RATE_OVER))

    @property
    def rate(self) -> float | None:
        """Pictures per second."""
        if len(self.times_ms) < 2 or self.times_ms[-1] <= self.times_ms[0]:
            return None
        return 1000 * (len(self.times_ms) - 1) / (self.times_ms[-1] - self.times_ms[0])

    def state(self, now_ms: int) -> str:
        """ended, sending, silent, or expected: it has questions, but no picture was seen."""
        if self.ended:
            return "ended"
        if self.seen_ms is None:
            return "silent" if self.epoch is not None else "expected"
        return "sending" if now_ms - self.seen_ms < SILENT_AFTER_S * 1000 else "silent"

    def behind_s(self, now_ms: int) -> float | None:
        """Age of a sending stream's newest answered picture, in seconds."""
        if self.last is None or self.state(now_ms) != "sending":
            return None
        return max(0.0, (now_ms - self.last.captured_at_ms) / 1000)


class Fleet(Closing):
    """The topics' view of all streams: a context manager, refreshed by `update`. Unreadable records are counted in
    `unreadable` and skipped.

    Opening it raises KafkaError.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self.streams: dict[str, StreamOverview] = {}
        self.unreadable = 0
        topics = settings.topics
        self._tails: list[tuple[TopicTail, Callable[[Message], None]]] = []
        try:
            for topic, newest, take in (
                (topics.streams, None, self._description),
                (topics.state, None, self._state),
                (topics.metadata, _NEWEST_METADATA, self._metadata),
                (topics.results, _NEWEST_RESULTS, self._result),
            ):
                self._tails.append((TopicTail(settings, topic, newest=newest), take))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for tail, _ in self._tails:
            tail.close()

    def catch_up(self) -> list[StreamOverview]:
        """All streams, by name, as of now."""
        return self._taken(lambda tail: tail.catch_up())

    def update(self) -> list[StreamOverview]:
        """All streams, by name, including new records; does not block."""
        return self._taken(lambda tail: list(_waiting(tail)))

    def _taken(self, read: Callable[[TopicTail], Iterable[Message]]) -> list[StreamOverview]:
        for tail, take in self._tails:
            for message in read(tail):
                try:
                    take(message)
                except MessageError:
                    self.unreadable += 1
        return [one for _, one in sorted(self.streams.items())]

    def _of(self, stream: str) -> StreamOverview:
        return self.streams.setdefault(stream, StreamOverview(stream))

    def _description(self, message: Message) -> None:
        description = usable_description(message, self._tails[0][0].partitions)
        if description is None:
            return
        if message.value() is None:  # it was removed
            if (one := self.streams.get(description.stream)) is not None:
                one.questions = 0
                if one.epoch is None and one.last is None:
                    del self.streams[description.stream]
            return
        self._of(description.stream).questions = len(description.questions)

    def _state(self, message: Message) -> None:
        if message.value() is None:
            return
        state: StreamState = decode_state(message.key(), message.value())
        if is_future(state.epoch, message):
            raise MessageError("state: its epoch lies in the future")
        one = self._of(state.stream)
        if one.epoch is None or state.epoch >= one.epoch:
            one.ended = state.ended or (one.ended and one.epoch == state.epoch)
            one.epoch = state.epoch

    def _metadata(self, message: Message) -> None:
        document = decode_metadata(message.key(), message.value())
        if is_future(document.epoch, message):
            raise MessageError("metadata: their epoch lies in the future")
        if isinstance(document, CameraLost):
            return
        one = self._of(document.stream)
        if one.epoch is not None and document.epoch < one.epoch:
            return
        if document.epoch != one.epoch:
            one.times_ms.clear()
        one.epoch = document.epoch
        one.ended = isinstance(document, EndOfEpoch)
        _, at_ms = message.timestamp()
        one.seen_ms = max(at_ms, one.seen_ms or 0)
        if not one.ended:
            one.times_ms.append(at_ms)

    def _result(self, message: Message) -> None:
        result = decode_result(message.key(), message.value())
        one = self._of(result.stream)
        one.last = result
        one.answers += result.error is None
        one.errors += result.error is not None
        one.kept += result.tokens.kept
        one.total += result.tokens.total


def _waiting(tail: TopicTail) -> Iterator[Message]:
    deadline = time.monotonic() + 1.0
    while (found := tail.poll(0.0)) and time.monotonic() < deadline:
        yield from found
