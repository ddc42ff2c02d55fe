"""Output to Kafka: everything that results from one batch, with the offsets, in one transaction, while the next batch
computes."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from confluent_kafka import TopicPartition

from codecflow.errors import KafkaError
from codecflow.kafka.failures import DeliveryError
from codecflow.kafka.records import Headers, Record
from codecflow.kafka.settings import TopicNames
from codecflow.logs import Notice
from codecflow.messages import (
    DeadLetter,
    Decoding,
    Event,
    FrameMask,
    Result,
    ResultError,
    StreamState,
    WindowMasks,
    encode_dead_letter,
    encode_event,
    encode_masks,
    encode_result,
    encode_state,
)

from .answering import Answered
from .resume import Offsets
from .summary import BusyTime
from .traces import WindowSpans
from .windows import Window

if TYPE_CHECKING:
    from .transport import Emitter

_logger = logging.getLogger("codecflow.worker")


class DeadLetters:
    """Dead letters that wait for a transaction: at most `limit` per source and 5 x `limit` per partition within `within_s`
    seconds, and `most` in all; the excess is counted, reported and dropped. A source is a stream on a topic's partition.

    A letter about a record of `group_topics`, those that the group's offsets are about, waits for the transaction that moves
    the offset past its record. Otherwise a successor would read the record again and write a second one.

    So a producer of another version, or a topic with other content, causes a bounded number of dead letters per minute;
    offsets advance anyway, and the other streams are answered.
    """

    def __init__(
        self,
        notice: Callable[[str], None] = lambda line: None,
        group_topics: Sequence[str] = (),
        limit: int = 100,
        within_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        most: int = 5000,
    ) -> None:
        self.total = 0
        self._notice, self._limit, self._within_s, self._clock, self._most = notice, limit, within_s, clock, most
        self._topics = {topic: index for index, topic in enumerate(group_topics)}
        self._waiting: list[DeadLetter] = []
        self._since = clock()
        self._sources: Counter[tuple[str, int, str]] = Counter()
        self._partitions: Counter[tuple[str, int]] = Counter()
        self._dropped: Counter[tuple[str, int]] = Counter()

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def ready(self, offsets: Mapping[int, Offsets]) -> tuple[DeadLetter, ...]:
        """Those that belong into a transaction after which the group's offsets are `offsets`, by partition."""
        return tuple(letter for letter in self._waiting if self._is_ready(letter, offsets))

    def _is_ready(self, letter: DeadLetter, offsets: Mapping[int, Offsets]) -> bool:
        topic = self._topics.get(letter.topic)
        if topic is None:
            return True
        return letter.partition in offsets and letter.offset < offsets[letter.partition][topic]

    def keep(self, numbers: Collection[int]) -> None:
        """Drop letters about records of all other partitions: whoever reads those records again writes the letters."""
        self._waiting = [x for x in self._waiting if x.topic not in self._topics or x.partition in numbers]

    def add(self, letter: DeadLetter) -> None:
        self.report()
        self.total += 1
        partition, source = (letter.topic, letter.partition), (letter.topic, letter.partition, letter.stream)
        too_often = self._sources[source] >= self._limit or self._partitions[partition] >= 5 * self._limit
        if too_often or len(self._waiting) >= self._most:
            if not self._dropped[partition]:
                what = (
                    f"more than {self._limit} records of {letter.stream!r} within {self._within_s:g} s cannot be used, the "
                    f"last one at offset {letter.offset}: {letter.reason}; they are skipped, further dead letters are only "
                    f"counted"
                    if too_often
                    else f"the record of {letter.stream!r} at offset {letter.offset} cannot be used: {letter.reason}; it is "
                    f"skipped and only counted, because {self._most} dead letters wait until the group's offsets move past "
                    f"their records: an older window of some stream is not committed yet"
                )
                self._notice(Notice(f"{letter.topic}[{letter.partition}]: {what}", stream=letter.stream))
            self._dropped[partition] += 1
            return
        self._sources[source] += 1
        self._partitions[partition] += 1
        self._waiting.append(letter)

    def report(self) -> None:
        """Once per period: report how many letters were dropped."""
        now = self._clock()
        if now < self._since + self._within_s:
            return
        for (topic, partition), count in self._dropped.items():
            self._notice(
                f"{topic}[{partition}]: {count} further records could not be used in the last {now - self._since:.0f} s"
            )
        self._since = now
        for counter in (self._sources, self._partitions, self._dropped):
            counter.clear()

    def sent(self, letters: tuple[DeadLetter, ...]) -> None:
        """These are committed: remove them."""
        gone = set(map(id, letters))
        self._waiting = [letter for letter in self._waiting if id(letter) not in gone]


def transactional_id(group: str) -> str:
    """A unique transactional id. A replaced worker is stopped by its group instead: the group refuses the offsets of a
    member that it has removed, and with them the whole transaction."""
    return f"{group}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class StreamEvents:
    """Events of a stream without a step of its own, with the state that records them."""

    state: StreamState
    events: tuple[Event, ...]


class Committer:
    """The worker's output, in its own thread; one transaction at a time. `policy`: the keep policy."""

    def __init__(self, emitter: Emitter, topics: TopicNames, policy: str, notice: Callable[[str], None]) -> None:
        self._emitter, self._topics, self._policy, self._notice = emitter, topics, policy, notice
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="committer")
        self.time = BusyTime()
        """Busy time of transactions."""

    def submit(
        self,
        answered: Sequence[Answered],
        stream_events: Sequence[StreamEvents],
        letters: Sequence[DeadLetter],
        offsets: Sequence[TopicPartition],
        group: Any,
    ) -> Future[None]:
        """Emit a batch. `group`: the member's group metadata when `offsets` were taken: after a later rebalance the group
        refuses them.

        The future is done once everything is committed. It raises FencedError when the partitions have moved to another
        worker: nothing was emitted, the work must be dropped. Other KafkaErrors end the worker; its successor continues from
        the last commit.
        """
        return self._thread.submit(self._emit, answered, stream_events, letters, offsets, group)

    def close(self) -> None:
        """Waits for the transaction in progress."""
        self._thread.shutdown()
        self._emitter.close()

    def _emit(
        self,
        answered: Sequence[Answered],
        stream_events: Sequence[StreamEvents],
        letters: Sequence[DeadLetter],
        offsets: Sequence[TopicPartition],
        group: Any,
    ) -> None:
        with self.time:
            topics = self._topics
            spans = WindowSpans(answered)
            records = [
                self._record(_encoded(r), topics.results, r.stream, spans.headers.get(r.stream))
                for one in answered
                for r in one.results
            ]
            states = [one.step.state for one in answered] + [one.state for one in stream_events]
            records += [self._record(encode_state(state), topics.state, state.stream) for state in states]
            events = [event for one in answered for event in one.events] + [
                event for one in stream_events for event in one.events
            ]
            records += [self._record(encode_event(event), topics.events, event.stream) for event in events]
            optional = [self._record(encode_dead_letter(x), topics.dead_letter, x.stream) for x in letters]
            for window in (one.step.window for one in answered):
                if window is not None and (masks := window_masks(window, self._policy)).frames:
                    optional += [self._record(record, topics.masks, window.stream) for record in encode_masks(masks)]
            try:
                self._send(records, optional, offsets, group)
            except KafkaError as error:
                spans.end(str(error))
                raise
            spans.end()

    def _send(
        self, records: list[Record], optional: list[Record], offsets: Sequence[TopicPartition], group: Any
    ) -> None:
        try:
            self._emitter.emit([*records, *optional], offsets, group)
        except DeliveryError as error:
            if not optional:
                raise
            # A dead letter must not block the record that it is about, nor a mask the answers.
            self._notice(f"dead letters and masks were rejected ({error}); {len(optional)} of them are dropped")
            self._emitter.emit(records, offsets, group)

    def _record(
        self, key_value: tuple[bytes, bytes], topic: str, stream: str, headers: Headers | None = None
    ) -> Record:
        return Record(topic, key_value[0], key_value[1], f"stream {stream!r}, for {topic}", headers)


def window_masks(window: Window, policy: str) -> WindowMasks:
    """The keep masks of a window's new frames."""
    frames = tuple(
        FrameMask(frame.seq, max(frame.time_s, 0.0), frame.size, frame.keep.reshape(frame.grid), frame.anchor)
        for frame in window.frames
        if frame.grid[0] * frame.grid[1] == frame.keep.size
    )
    pictures = Decoding(window.pictures.get("published", 0), window.pictures.get("decoded", 0))
    return WindowMasks(window.stream, window.epoch, window.index, window.captured_at_ms, policy, frames, pictures)


def _encoded(result: Result) -> tuple[bytes, bytes]:
    """A result as a record; a result that cannot be encoded becomes an error result."""
    try:
        return encode_result(result)
    except Exception as error:  # one stream's result must not stop the worker
        _logger.debug("%r", result, exc_info=True)
        failure = ResultError("failed", f"the answer cannot be written: {type(error).__name__}: {error}")
        return encode_result(replace(result, answer="", p_yes=None, label_probabilities=None, error=failure))
