"""A worker without brokers: records of recorded cameras come through a pipe, commits stay in memory."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from confluent_kafka import TopicPartition

from codecflow.kafka.records import Record
from codecflow.kafka.settings import TopicNames
from codecflow.messages import Question, Zone
from codecflow.tools.bench.camera_load import PipedRecord
from codecflow.worker.consumer import Arrival
from codecflow.worker.partition import Partition
from codecflow.worker.resume import METADATA, PACKETS, Offsets, States
from codecflow.worker.transport import (
    Assigned,
    DeadLetterHandler,
    Emitter,
    NoticeHandler,
    QuestionSource,
    ReadProgress,
    RecordConsumer,
    Revoked,
)

_MAX_WAITING = 256 << 20
"""Maximum bytes of unread records before the cameras are blocked; with brokers they would be stored there."""
_BATCH = 500


class ReplayTransport:
    """Replaces KafkaTransport. `pipe`: where the cameras' process writes to."""

    def __init__(self, partitions: int) -> None:
        self.topics = TopicNames("bench")
        self.partitions = partitions
        receiver, self.pipe = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._log = _Log(receiver, partitions)

    def consumer(self, assigned: Assigned, revoked: Revoked, notice: NoticeHandler) -> RecordConsumer:
        return _Consumer(self._log, self.topics, assigned)

    def emitter(self) -> Emitter:
        return _Memory()

    def questions(
        self, default: Question | None, dead_letter: DeadLetterHandler, notice: NoticeHandler
    ) -> QuestionSource:
        return _OneQuestion(default)

    def states(self, numbers: Sequence[int], dead_letter: DeadLetterHandler, notice: NoticeHandler) -> States:
        return {number: {} for number in numbers}

    def check_partitions(self) -> None:
        """Their number is fixed."""

    def progress(self) -> ReadProgress:
        return _ReadProgress(self._log)

    def close(self) -> None:
        self.pipe.close()
        self._log.close()


class _Log:
    """What the cameras have written and the worker has not read. A thread reads the pipe, like a Kafka client's own threads
    read the network; records are parsed in the reader's thread, as in a client."""

    def __init__(self, receiver: Any, partitions: int) -> None:
        self.partitions = partitions
        self.paused: set[tuple[int, int]] = set()
        self._receiver = receiver
        self._batches: deque[tuple[int, bytes]] = deque()
        self._bytes = self._records = 0
        self._cut: deque[PipedRecord] = deque()
        self._held: dict[tuple[int, int], deque[PipedRecord]] = {}
        self._decode = msgspec.msgpack.Decoder(list[PipedRecord]).decode
        self._room = threading.Condition()
        self._closed = False
        threading.Thread(target=self._receive, name="replay", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Number of records."""
        return self._records + len(self._cut) + sum(map(len, self._held.values()))

    def empty(self, topic: int, partition: int) -> bool:
        return not (self._records or self._cut or self._held.get((topic, partition)))

    def take(self, limit: int) -> list[PipedRecord]:
        """The next records of topics that are not paused."""
        found: list[PipedRecord] = []
        for place, held in self._held.items():
            while held and place not in self.paused and len(found) < limit:
                found.append(held.popleft())
        while len(found) < limit and (self._cut or self._next()):
            record = self._cut.popleft()
            place = (record.topic, record.partition)
            if place in self.paused or self._held.get(place):
                self._held.setdefault(place, deque()).append(record)
            else:
                found.append(record)
        return found

    def close(self) -> None:
        with self._room:
            self._closed = True
            self._room.notify()
        self._receiver.close()

    def _next(self) -> bool:
        if not self._batches:
            return False
        count, data = self._batches.popleft()
        with self._room:
            self._bytes -= len(data)
            self._records -= count
            self._room.notify()
        self._cut.extend(self._decode(memoryview(data)[4:]))
        return True

    def _receive(self) -> None:
        while True:
            with self._room:
                while self._bytes > _MAX_WAITING and not self._closed:
                    self._room.wait()
            try:
                data = self._receiver.recv_bytes()
            except (EOFError, OSError, TypeError):  # closed
                return
            count = int.from_bytes(data[:4], "little")
            with self._room:
                self._bytes += len(data)
                self._records += count
            self._batches.append((count, data))


class _Consumer:
    """Like GroupConsumer, as the only member of its group."""

    records_expired = 0

    def __init__(self, log: _Log, topics: TopicNames, assigned: Assigned) -> None:
        self._log, self._assigned, self._began = log, assigned, False
        self._topics = (topics.packets, topics.metadata)

    def poll(self, timeout_s: float) -> list[Arrival]:
        if not self._began:
            self._began = True
            self._assigned(dict.fromkeys(range(self._log.partitions), (0, 0)))
        found = self._log.take(_BATCH)
        if len(found) < _BATCH:  # a client waits until a batch is full or the time is up
            time.sleep(timeout_s)
            found += self._log.take(_BATCH - len(found))
        return [Arrival(record.topic, record.partition, record) for record in found]

    def pause(self, partition: int, full: tuple[bool, bool]) -> None:
        for topic, stop in zip((PACKETS, METADATA), full, strict=True):
            (self._log.paused.add if stop else self._log.paused.discard)((topic, partition))

    def offsets(self, number: int, offsets: Offsets) -> list[TopicPartition]:
        return [TopicPartition(topic, number, offset) for topic, offset in zip(self._topics, offsets, strict=True)]

    def group(self) -> None:
        return None

    def close(self) -> None:
        pass


class _ReadProgress:
    def __init__(self, log: _Log) -> None:
        self.lag = 0
        self._log = log

    def update(self, partitions: dict[int, Partition]) -> None:
        self.lag = self._log.waiting
        now = time.monotonic()
        for number, partition in partitions.items():
            for topic in (PACKETS, METADATA):
                if self._log.empty(topic, number):
                    partition.read_until(topic, now)

    def forget(self, numbers: Iterable[int]) -> None:
        pass


class _Memory:
    """Commits nothing: records have been delivered already."""

    def emit(self, records: Sequence[Record], offsets: Sequence[TopicPartition], group: Any) -> None:
        pass

    def close(self) -> None:
        pass


class _OneQuestion:
    def __init__(self, question: Question | None) -> None:
        self._questions = () if question is None else (question,)

    def of(self, stream: str) -> tuple[Question, ...]:
        return self._questions

    def zones(self, stream: str) -> tuple[Zone, ...]:
        return ()

    def update(self, *, caught_up: bool = False) -> set[str]:
        return set()

    def close(self) -> None:
        pass
