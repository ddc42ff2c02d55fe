"""What a worker needs of Kafka, in five interfaces; a benchmark that replays recorded topics replaces them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from confluent_kafka import TopicPartition

from codecflow.kafka.records import Record
from codecflow.kafka.settings import KafkaSettings, TopicNames
from codecflow.kafka.topics import check_topics
from codecflow.kafka.transactions import TransactionalEmitter
from codecflow.messages import DeadLetter, Question, Zone

from .committer import transactional_id
from .consumer import Arrival, GroupConsumer, Progress
from .partition import Partition
from .questions import Questions
from .resume import Offsets, States, read_states

Assigned = Callable[[dict[int, Offsets]], dict[int, Offsets]]
Revoked = Callable[[list[int], bool], None]
Dead = Callable[[DeadLetter], None]
Say = Callable[[str], None]


class Incoming(Protocol):
    """See GroupConsumer."""

    records_gone: int

    def poll(self, timeout_s: float) -> list[Arrival]: ...

    def pause(self, partition: int, full: tuple[bool, bool]) -> None: ...

    def offsets(self, number: int, offsets: Offsets) -> list[TopicPartition]: ...

    def group(self) -> Any: ...

    def close(self) -> None: ...


class Outgoing(Protocol):
    """See TransactionalEmitter, open."""

    def emit(self, records: Sequence[Record], offsets: Sequence[TopicPartition], group: Any) -> None: ...

    def close(self) -> None: ...


class Asked(Protocol):
    """See Questions."""

    def of(self, stream: str) -> tuple[Question, ...]: ...

    def zones(self, stream: str) -> tuple[Zone, ...]: ...

    def update(self, *, caught_up: bool = False) -> set[str]: ...

    def close(self) -> None: ...


class ReadTo(Protocol):
    """See Progress."""

    lag: int

    def update(self, partitions: dict[int, Partition]) -> None: ...

    def forget(self, numbers: Iterable[int]) -> None: ...


class Transport(Protocol):
    """`partitions`: the partition count of packets, metadata and state."""

    topics: TopicNames
    partitions: int

    def consumer(self, assigned: Assigned, revoked: Revoked, say: Say) -> Incoming: ...

    def emitter(self) -> Outgoing: ...

    def questions(self, default: Question | None, dead: Dead, say: Say) -> Asked: ...

    def states(self, numbers: Sequence[int], dead: Dead, say: Say) -> States: ...

    def progress(self) -> ReadTo: ...


class KafkaTransport:
    """Real brokers. Raises KafkaError when they or the topics are not set up correctly. `stopping`: whether the worker is to
    stop, so that it does not wait for brokers that are down."""

    def __init__(self, settings: KafkaSettings, stopping: Callable[[], bool] = lambda: False) -> None:
        self._settings, self._stopping = settings, stopping
        self.topics = settings.topics
        self.partitions = check_topics(settings)

    def consumer(self, assigned: Assigned, revoked: Revoked, say: Say) -> Incoming:
        return GroupConsumer(self._settings, assigned, revoked, say, self._stopping)

    def emitter(self) -> Outgoing:
        group = self._settings.worker_group
        emitter = TransactionalEmitter(self._settings, transactional_id(group), group, self._stopping)
        emitter.open()
        return emitter

    def questions(self, default: Question | None, dead: Dead, say: Say) -> Asked:
        return Questions(self._settings, default, dead, say, self._stopping)

    def states(self, numbers: Sequence[int], dead: Dead, say: Say) -> States:
        return read_states(self._settings, numbers, self.partitions, dead, say, self._stopping)

    def progress(self) -> ReadTo:
        return Progress(self._settings)
