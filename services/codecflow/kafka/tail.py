"""Reading a topic from its beginning to its end, then following it: descriptions, state and results, outside consumer
groups."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from confluent_kafka import IsolationLevel, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as ClientError
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # named in no __all__
    OffsetSpec,
)

from codecflow.errors import KafkaError, MessageError
from codecflow.lifecycle import Closing

from .clients import STOP_WITHIN_S, BrokerWatch, consumer, refresh_leaders, require_broker
from .failures import TopicsError, client_error, is_retriable, reason
from .settings import KafkaSettings
from .unreadable import NO_GROUP, REASON, RETRIES, UNREADABLE, RecordSkipper

_logger = logging.getLogger(__name__)
_BATCH = 500
_FETCH_MS = 100
"""How long a broker may hold back an empty fetch response. Only such a response shows that a topic has been read to a
transaction's marker at its end, and every reader of results and state waits for one."""
_REQUEST_S = 10.0
_MAX_REPORTED, _REPORT_EVERY_S = 10, 60.0
_UNKNOWN = (ClientError.UNKNOWN_TOPIC_OR_PART, ClientError._UNKNOWN_TOPIC, ClientError._UNKNOWN_PARTITION)
_KNOWN_WITHIN_S = 3.0
"""A broker that has just started, or a topic that was just created, may be unknown for this long."""


class TopicTail(Closing):
    """Committed records of `topic` (all partitions, or those given), oldest first: all, only new ones with `from_end`, at
    most the `newest` of each partition and new ones, or those written at or after `since_ms`, wall clock in ms.

    Opening it raises BrokerUnreachableError or TopicsError. Once `stopping()` is true, it waits at most `STOP_WITHIN_S`
    seconds for brokers that do not answer.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        partitions: Sequence[int] | None = None,
        *,
        from_end: bool = False,
        newest: int | None = None,
        since_ms: int | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self.topic = topic
        self._stopping = stopping
        self._watch = BrokerWatch(settings)
        self._admin = require_broker(settings, stopping)
        self._partitions = list(partitions) if partitions is not None else self._all_partitions()
        self._consumer = consumer(
            settings,
            f"{settings.topic_prefix}.tail",
            self._watch,
            **{"enable.partition.eof": True, "fetch.wait.max.ms": _FETCH_MS, **RETRIES},
        )
        self._skipper = RecordSkipper(self._consumer)
        # Looked up now, not at the first poll, so that nothing committed in between is skipped. The beginning too:
        # librdkafka looks up "from the beginning" itself, but half a second to a second later.
        begin = OffsetSpec.latest() if from_end else OffsetSpec.earliest()
        self._positions = self._offsets(begin, IsolationLevel.READ_COMMITTED)
        if since_ms is not None:
            later = self._offsets(OffsetSpec.for_timestamp(since_ms), IsolationLevel.READ_COMMITTED)
            ends = self._offsets(OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
            self._positions = {key: ends[key] if at < 0 else at for key, at in later.items()}
        if newest is not None:
            ends = self._offsets(OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
            self._positions = {key: max(at, ends[key] - newest) for key, at in self._positions.items()}
        self._consumer.assign([TopicPartition(topic, *position) for position in self._positions.items()])

    @property
    def partitions(self) -> int:
        """How many partitions are read."""
        return len(self._partitions)

    def catch_up(self, within_s: float = 60.0) -> list[Message]:
        """Every committed record not yet returned, up to the current ends of the partitions.

        The ends include open transactions, and this waits for them: the broker aborts a dead worker's after its time-out;
        what is being committed is included. Raises KafkaError when `within_s` seconds are not enough.
        """
        began = time.monotonic()
        ends = self._offsets(OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        found: list[Message] = []
        while any(self._positions[partition] < end for partition, end in ends.items()):
            new = self.poll(0.2)
            found += new
            self._give_up(began, within_s, "not read to its end", progress=bool(new))
        return found

    def to_the_end(self, without_s: float = 60.0) -> Iterator[list[Message]]:
        """As `catch_up`, in pieces, without a total time limit. Raises KafkaError when nothing comes for `without_s`
        seconds."""
        ends = self._offsets(OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        began = time.monotonic()
        while any(self._positions[partition] < end for partition, end in ends.items()):
            before = dict(self._positions)
            if new := self.poll(0.2):
                yield new
            if self._positions != before:
                began = time.monotonic()
            self._give_up(began, without_s, "not read to its end")

    def poll(self, timeout_s: float = 0.0) -> list[Message]:
        """New records, as soon as there is one; `timeout_s` is the longest wait. Raises KafkaError, BrokersGoneError."""
        self._watch.check(self._consumer)
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        found = []
        skipped: set[int | None] = set()
        for message in (first, *self._consumer.consume(_BATCH, 0)):
            error = message.error()
            partition, offset = message.partition(), message.offset()
            if error is None and partition is not None and offset is not None:
                self._positions[partition] = offset + 1
                found.append(message)
            elif error is not None and error.code() == ClientError._PARTITION_EOF:
                # Past the returned records: transaction markers and aborted records take offsets too.
                self._positions[partition or 0] = offset or 0
            elif error is not None and error.code() == NO_GROUP:
                continue
            elif error is not None and error.code() in UNREADABLE:
                if (
                    partition not in skipped
                    and (at := self._skipper.skip(message)) is not None
                    and partition is not None
                ):
                    self._positions[partition] = at + 1
                    _logger.warning("%s[%s] at offset %s: %s", self.topic, partition, at, REASON)
                skipped.add(partition)
            elif error is not None and (error.fatal() or not (is_retriable(error) or error.code() < 0)):
                raise self._error(error)
        return found

    def close(self) -> None:
        self._consumer.close()

    def _all_partitions(self) -> list[int]:
        try:
            found = self._admin.list_topics(self.topic, timeout=self._settings.reach_within_s).topics[self.topic]
        except KafkaException as error:
            raise self._error(client_error(error)) from error
        if found.error is not None:
            raise self._error(found.error)
        return sorted(found.partitions)

    def ends_of(self, topic: str) -> dict[int, int]:
        """The ends of the same partitions of another topic, without open transactions. Raises KafkaError."""
        return self._offsets(OffsetSpec.latest(), IsolationLevel.READ_COMMITTED, topic)

    def _offsets(self, spec: OffsetSpec, isolation: IsolationLevel, topic: str | None = None) -> dict[int, int]:
        """By partition."""
        request = {TopicPartition(topic or self.topic, partition): spec for partition in self._partitions}
        began = time.monotonic()
        within_s = max(_REQUEST_S, self._settings.reach_within_s)
        while True:
            answers = self._admin.list_offsets(request, isolation_level=isolation, request_timeout=_REQUEST_S)
            try:
                return {key.partition: answer.result(2 * _REQUEST_S).offset for key, answer in answers.items()}
            except KafkaException as error:
                # A topic that was just created or is moving, or whose broker restarts, has no leader for a moment.
                code, took_s = client_error(error).code(), time.monotonic() - began
                if (
                    took_s > within_s
                    or (code in _UNKNOWN and took_s > _KNOWN_WITHIN_S)
                    or code == ClientError.TOPIC_AUTHORIZATION_FAILED
                ):
                    raise self._error(client_error(error)) from error
            except TimeoutError:
                pass
            self._give_up(began, within_s, "its offsets are unknown")
            time.sleep(0.1)
            refresh_leaders(self._admin, [topic or self.topic])

    def _give_up(self, began: float, within_s: float, what: str, *, progress: bool = False) -> None:
        """Raises KafkaError when it takes too long."""
        took_s = time.monotonic() - began
        stop = self._stopping() and not progress
        if took_s > within_s or (stop and took_s > STOP_WITHIN_S and not self._watch.answered(self._consumer)):
            raise KafkaError(f"topic {self.topic}: {what} within {took_s:.0f} s{self._watch.because}")

    def _error(self, error: ClientError) -> KafkaError:
        if error.code() in (ClientError.UNKNOWN_TOPIC_OR_PART, ClientError._UNKNOWN_TOPIC):
            return TopicsError(f"topic {self.topic} is missing: run: codecflow topics create")
        why = reason(error, self._settings, "Read", self.topic)
        return KafkaError(f"topic {self.topic}: {why}{self._watch.because}")


class Rejections:
    """Reports records of one topic that a reader cannot decode: the first few, then how many more, once per minute. `notice`
    is called with the lines."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._reported = self._more = 0
        self._until = 0.0

    def add(self, record: Message, error: MessageError) -> None:
        if self._reported == _MAX_REPORTED:
            self._more += 1
            return
        self._reported += 1
        self._until = time.monotonic() + _REPORT_EVERY_S
        self._notice(f"{record.topic()}[{record.partition()}] at offset {record.offset()}: {error}; skipped")

    def report(self, topic: str) -> None:
        """Report what was left out. To be called regularly."""
        if self._more and time.monotonic() > self._until:
            self._notice(f"{topic}: {self._more} more records cannot be read and are skipped")
            self._reported = self._more = 0


def newest_by_key(records: Iterable[Message]) -> dict[bytes, bytes | None]:
    """What compaction would leave: the last value of each key; None if it was deleted."""
    return {key: record.value() for record in records if (key := record.key()) is not None}
