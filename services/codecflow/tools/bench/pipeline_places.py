"""Where a run of the pipeline benchmark exchanges records: with a broker, or in memory; and when results were committed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import TopicPartition

from codecflow.kafka.records import Record
from codecflow.kafka.settings import KafkaSettings, TopicNames
from codecflow.kafka.topics import create_topics
from codecflow.localkafka.daemon import LocalKafka
from codecflow.localkafka.files import BrokerFiles
from codecflow.messages import Question
from codecflow.tools.bench.camera_load import CameraProcess, Load
from codecflow.tools.bench.replay_transport import ReplayTransport
from codecflow.worker.resume import States
from codecflow.worker.transport import (
    Assigned,
    DeadLetterHandler,
    Emitter,
    KafkaTransport,
    NoticeHandler,
    QuestionSource,
    ReadProgress,
    RecordConsumer,
    Revoked,
)
from codecflow.worker.transport import Transport as WorkerTransport


class Place(Protocol):
    """Where runs exchange records: brokers, or memory."""

    def begin(self, load: Load) -> tuple[WorkerTransport, CameraProcess]: ...

    def end(self) -> None: ...

    def broker_cpu_s(self) -> float: ...


class KafkaPlace:
    """A local broker, with new topics for each run."""

    def __init__(self, broker: LocalKafka, partitions: int) -> None:
        self._broker, self._partitions, self._runs = broker, partitions, 0

    def begin(self, load: Load) -> tuple[WorkerTransport, CameraProcess]:
        self._runs += 1
        settings = KafkaSettings(self._broker.bootstrap_servers, f"bench-{os.getpid()}-{self._runs}")
        create_topics(settings, self._partitions)
        return KafkaTransport(settings), CameraProcess(load, settings)

    def end(self) -> None:
        pass

    def broker_cpu_s(self) -> float:
        return sum(_process_cpu_s(pid) for pid in BrokerFiles(self._broker.data_dir).running_pids())


class ReplayPlace:
    """No broker."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._transport: ReplayTransport | None = None

    def begin(self, load: Load) -> tuple[WorkerTransport, CameraProcess]:
        self._transport = ReplayTransport(self._partitions)
        return self._transport, CameraProcess(load, (self._transport.pipe, self._partitions))

    def end(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def broker_cpu_s(self) -> float:
        return 0.0


class WatchedTransport:
    """A transport that stores committed results, each with its commit time."""

    def __init__(self, inner: WorkerTransport) -> None:
        self._inner = inner
        self.topics: TopicNames = inner.topics
        self.partitions = inner.partitions
        self.committed: list[tuple[float, bytes, bytes]] = []

    def consumer(self, assigned: Assigned, revoked: Revoked, notice: NoticeHandler) -> RecordConsumer:
        return self._inner.consumer(assigned, revoked, notice)

    def questions(
        self, default: Question | None, dead_letter: DeadLetterHandler, notice: NoticeHandler
    ) -> QuestionSource:
        return self._inner.questions(default, dead_letter, notice)

    def states(self, numbers: Sequence[int], dead_letter: DeadLetterHandler, notice: NoticeHandler) -> States:
        return self._inner.states(numbers, dead_letter, notice)

    def progress(self) -> ReadProgress:
        return self._inner.progress()

    def check_partitions(self) -> None:
        self._inner.check_partitions()

    def emitter(self) -> Emitter:
        return _WatchedEmitter(self._inner.emitter(), self.topics.results, self.committed)


class _WatchedEmitter:
    def __init__(self, inner: Emitter, topic: str, committed: list[tuple[float, bytes, bytes]]) -> None:
        self._inner, self._topic, self._committed = inner, topic, committed

    def emit(self, records: Sequence[Record], offsets: Sequence[TopicPartition], group: Any) -> None:
        self._inner.emit(records, offsets, group)
        now = time.time()
        self._committed += [(now, one.key, one.value or b"") for one in records if one.topic == self._topic]

    def close(self) -> None:
        self._inner.close()


def _process_cpu_s(pid: int) -> float:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text()
        rest = text[text.rindex(")") + 2 :].split()
        return (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
