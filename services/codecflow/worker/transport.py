"""What a worker needs of Kafka, in five interfaces; a benchmark that replays recorded topics replaces them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from confluent_kafka import TopicPartition

from codecflow.kafka.failures import BrokerUnreachableError, TopicsError
from codecflow.kafka.partition_reader import partitions_of
from codecflow.kafka.records import Record
from codecflow.kafka.settings import KafkaSettings, TopicNames
from codecflow.kafka.topics import check_topics
from codecflow.kafka.transactions import TransactionalEmitter
from codecflow.messages import DeadLetter, Question, Zone

from .committer import transactional_id
from .consumer import Arrival, GroupConsumer
from .partition import Partition
from .questions import Questions
from .read_progress import Progress
from .resume import Offsets, States, read_states

_CHECK_EVERY_S = 10.0

Assigned = Callable[[dict[int, Offsets]], dict[int, Offsets]]
Revoked = Callable[[list[int], bool], None]
DeadLetterHandler = Callable[[DeadLetter], None]
NoticeHandler = Callable[[str], None]


class RecordConsumer(Protocol):
    """See GroupConsumer."""

    records_expired: int

    def poll(self, timeout_s: float) -> list[Arrival]: ...

    def pause(self, partition: int, full: tuple[bool, bool]) -> None: ...

    def offsets(self, number: int, offsets: Offsets) -> list[TopicPartition]: ...

    def group(self) -> Any: ...

    def close(self) -> None: ...


class Emitter(Protocol):
    """See TransactionalEmitter, open."""

    def emit(self, records: Sequence[Record], offsets: Sequence[TopicPartition], group: Any) -> None: ...

    def close(self) -> None: ...


class QuestionSource(Protocol):
    """See Questions."""

    def of(self, stream: str) -> tuple[Question, ...]: ...

    def zones(self, stream: str) -> tuple[Zone, ...]: ...

    def update(self, *, caught_up: bool = False) -> set[str]: ...

    def close(self) -> None: ...


class ReadProgress(Protocol):
    """See Progress."""

    lag: int

    def update(self, partitions: dict[int, Partition]) -> None: ...

    def forget(self, numbers: Iterable[int]) -> None: ...


class Transport(Protocol):
    """`partitions`: the partition count of packets, metadata and state."""

    topics: TopicNames
    partitions: int

    def consumer(self, assigned: Assigned, revoked: Revoked, notice: NoticeHandler) -> RecordConsumer: ...

    def emitter(self) -> Emitter: ...

    def questions(
        self, default: Question | None, dead_letter: DeadLetterHandler, notice: NoticeHandler
    ) -> QuestionSource: ...

    def states(self, numbers: Sequence[int], dead_letter: DeadLetterHandler, notice: NoticeHandler) -> States: ...

    def progress(self) -> ReadProgress: ...

    def check_partitions(self) -> None: ...


class KafkaTransport:
    """Real brokers. Raises KafkaError when they or the topics are not set up correctly. `stopping`: whether the worker is to
    stop, so that it does not wait for brokers that are down."""

    def __init__(self, settings: KafkaSettings, stopping: Callable[[], bool] = lambda: False) -> None:
        self._settings, self._stopping = settings, stopping
        self.topics = settings.topics
        self.partitions = check_topics(settings)
        self._checked_at = -math.inf

    def consumer(self, assigned: Assigned, revoked: Revoked, notice: NoticeHandler) -> RecordConsumer:
        return GroupConsumer(self._settings, assigned, revoked, notice, self._stopping)

    def emitter(self) -> Emitter:
        group = self._settings.worker_group
        emitter = TransactionalEmitter(self._settings, transactional_id(group), group, self._stopping)
        emitter.open()
        return emitter

    def questions(
        self, default: Question | None, dead_letter: DeadLetterHandler, notice: NoticeHandler
    ) -> QuestionSource:
        return Questions(self._settings, default, dead_letter, notice, self._stopping)

    def states(self, numbers: Sequence[int], dead_letter: DeadLetterHandler, notice: NoticeHandler) -> States:
        return read_states(self._settings, numbers, self.partitions, dead_letter, notice, self._stopping)

    def progress(self) -> ReadProgress:
        return Progress(self._settings)

    def check_partitions(self) -> None:
        """Raises TopicsError when the partition count has changed since the start: a record in what seems to be the wrong
        partition of its stream is then in the right one. Asks the brokers once in a while only."""
        if time.monotonic() < self._checked_at + _CHECK_EVERY_S:
            return
        self._checked_at = time.monotonic()
        with suppress(BrokerUnreachableError):
            count = partitions_of(self._settings, self.topics.packets)
            if count != self.partitions:
                raise TopicsError(
                    f"topic {self.topics.packets} has {count} partitions now, and had {self.partitions} when this worker "
                    f"started: streams have moved to other partitions; restart all workers and producers"
                )
