"""Output to Kafka: everything that results from one batch, with the offsets, in one transaction, while the next batch
computes."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from confluent_kafka import TopicPartition

from codecflow.errors import KafkaError
from codecflow.kafka.failures import DeliveryError
from codecflow.kafka.records import Headers, Record
from codecflow.kafka.settings import TopicNames
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
from .summary import BusyTime
from .traces import WindowSpans
from .windows import Window

if TYPE_CHECKING:
    from .transport import Emitter

_logger = logging.getLogger("codecflow.worker")
_REPORT_EVERY_S = 60.0


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
        self._rejected, self._report_at = 0, 0.0
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
            if error.topic not in (self._topics.masks, self._topics.dead_letter):
                raise
            # A dead letter must not block the record that it is about, nor a mask the answers.
            self._rejected += len(optional)
            if (now := time.monotonic()) >= self._report_at:
                self._notice(f"dead letters and masks were rejected ({error}); {self._rejected} of them are dropped")
                self._rejected, self._report_at = 0, now + _REPORT_EVERY_S
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
