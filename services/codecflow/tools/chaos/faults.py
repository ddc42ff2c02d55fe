"""The faults: each is a function that causes it, waits, and repairs it if nothing else would."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import ElectionType, TopicPartition

from codecflow import subscriber
from codecflow.kafka.clients import producer, require_broker
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import EventRule, Question

from .cluster import Cluster
from .proxy import Mode
from .services import Service

SESSION_S = 8
"""Session time-out of the workers' group: after this time a frozen worker is removed."""
STRIDES = ("2", "3")
BASE = Question("base", "Is a person in view?", "yes-no", event=EventRule("yes", 0.5, update_s=10.0))
"""The question that every stream always has."""
_EXTRA = Question("extra", "What is there?", max_tokens=2)

Coordinates = tuple[str, int, int]
"""Topic, partition and offset of a record."""


@dataclass
class Stage:
    """What faults act on. `settings`: without a proxy. `poison`: invalid records that were sent. `strides`: those that
    workers have been started with so far. `refused`: exit statuses of services that did not stop cleanly."""

    rng: random.Random
    cluster: Cluster
    settings: KafkaSettings
    folder: Path
    streams: list[str]
    workers: list[Service]
    producers: list[Service]
    poison: list[Coordinates] = field(default_factory=list)
    strides: list[str] = field(default_factory=lambda: [STRIDES[0]])
    refused: list[str] = field(default_factory=list)
    all_services: list[Service] = field(default_factory=list)

    def worker(self) -> Service:
        return self.rng.choice(self.workers)

    def wait(self, min_s: float, max_s: float) -> None:
        time.sleep(self.rng.uniform(min_s, max_s))

    def broker(self) -> int:
        return self.rng.randrange(self.cluster.brokers)

    def end(self, service: Service) -> None:
        """Stops a service cleanly; one that has just been killed is started first."""
        deadline = time.monotonic() + 30
        while not service.running and time.monotonic() < deadline:
            time.sleep(0.1)
        service.terminate()
        status = service.end()
        # Ended by the signal itself: it has no handler yet, and has begun nothing.
        if status not in (0, -signal.SIGTERM):
            self.refused.append(f"{service.name} ended with {status}: {service.last_words()}")


def _kill_worker(stage: Stage) -> None:
    stage.worker().kill()


def _freeze_worker(stage: Stage) -> None:
    worker = stage.worker()
    worker.freeze()
    stage.wait(SESSION_S + 2, SESSION_S + 8)
    worker.thaw()


def _restart_worker(stage: Stage) -> None:
    worker = stage.worker()
    stage.end(worker)
    worker.start()


def _join_worker(stage: Stage) -> None:
    """Adds a worker, which later leaves again."""
    newcomer = Service(f"newcomer-{len(stage.all_services)}", stage.folder, *stage.workers[0].arguments)
    stage.all_services.append(newcomer)
    newcomer.start()
    stage.wait(10, 20)
    stage.end(newcomer)


def _change_stride(stage: Stage) -> None:
    """A rolling change of settings: one worker after the other."""
    stride = STRIDES[(STRIDES.index(stage.strides[-1]) + 1) % len(STRIDES)]
    stage.strides.append(stride)
    for worker in stage.workers:
        stage.end(worker)
        worker.arguments[worker.arguments.index("--stride") + 1] = stride
        worker.start()
        stage.wait(2, 4)


def _kill_producer(stage: Stage) -> None:
    stage.rng.choice(stage.producers).kill()


def _freeze_producer(stage: Stage) -> None:
    camera = stage.rng.choice(stage.producers)
    camera.freeze()
    stage.wait(5, 12)
    camera.thaw()


def _kill_broker(stage: Stage) -> None:
    number = stage.broker()
    alone = stage.cluster.brokers == 1
    if alone:  # a single broker may lose commits of the last milliseconds: docs/explanation/reliability.md
        for worker in stage.workers:
            worker.freeze()
        stage.wait(1.5, 2.0)
    stage.cluster.kill(number)
    for worker in stage.workers if alone else []:
        worker.thaw()
    stage.wait(0, 10)
    stage.cluster.start(number)
    _until_in_sync(stage)


def _restart_brokers(stage: Stage) -> None:
    """All of them, one after the other."""
    for number in range(stage.cluster.brokers):
        stage.cluster.stop(number)
        stage.cluster.start(number)
        _until_in_sync(stage)


def _move_leaders(stage: Stage) -> None:
    """Partitions are led by their preferred brokers again, as the controller sees to every five minutes."""
    client = require_broker(stage.settings)
    topics = client.list_topics(timeout=20).topics
    places = [TopicPartition(name, number) for name, topic in topics.items() for number in topic.partitions]
    client.elect_leaders(ElectionType.PREFERRED, places).result(60)


def _fill_disk(stage: Stage) -> None:
    """The broker halts; space is freed a while later."""
    number = stage.broker()
    if not stage.cluster.fill_disk(number):
        return
    deadline = time.monotonic() + 20
    while stage.cluster.runs(number) and time.monotonic() < deadline:
        time.sleep(0.2)
    stage.wait(3, 8)
    stage.cluster.kill(number)
    stage.cluster.start(number)
    _until_in_sync(stage)


def _cut(stage: Stage) -> None:
    for proxy in stage.cluster.proxies:
        proxy.cut()


def _disturb(mode: Mode, min_s: float, max_s: float) -> Callable[[Stage], None]:
    def disturb(stage: Stage) -> None:
        proxy = stage.cluster.proxies[stage.broker()]
        proxy.set(mode)
        stage.wait(min_s, max_s)
        proxy.set(Mode.PASS)

    return disturb


def _poison(stage: Stage) -> None:
    """Records of another program on both topics, some with a stream's own key."""
    client = producer(stage.settings)

    def delivered(error: object, message: object) -> None:
        if error is None:
            stage.poison.append((message.topic(), message.partition(), message.offset()))  # type: ignore[attr-defined]

    for _ in range(5):
        for topic in (stage.settings.topics.packets, stage.settings.topics.metadata):
            key = stage.rng.choice([*(stream.encode() for stream in stage.streams), b"\xff\xfe", b"", None])
            value = stage.rng.randbytes(stage.rng.randrange(1, 2000))
            headers = stage.rng.choice([None, [("picture", value[:80])], [("\u00fc", b"1")]])
            client.produce(topic, value, key, headers=headers, on_delivery=delivered)  # type: ignore[arg-type]
    client.flush(60)


def _change_questions(stage: Stage) -> None:
    stream = stage.rng.choice(stage.streams)
    subscriber.ask(stage.settings, stream, _EXTRA)
    stage.wait(4, 10)
    subscriber.remove(stage.settings, stream, _EXTRA.id)


KINDS: Mapping[str, Callable[[Stage], None]] = {
    "kill-worker": _kill_worker,
    "kill-broker": _kill_broker,
    "cut": _cut,
    "kill-producer": _kill_producer,
    "half-open": _disturb(Mode.SILENT, 12, 25),
    "poison": _poison,
    "freeze-worker": _freeze_worker,
    "questions": _change_questions,
    "refuse": _disturb(Mode.REFUSE, 5, 25),
    "restart-worker": _restart_worker,
    "restart-brokers": _restart_brokers,
    "move-leaders": _move_leaders,
    "join-worker": _join_worker,
    "slow": _disturb(Mode.SLOW, 8, 15),
    "disk-full": _fill_disk,
    "freeze-producer": _freeze_producer,
    "stride": _change_stride,
}


def _until_in_sync(stage: Stage) -> None:
    """With several brokers, no two may be down at once."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        topics = require_broker(stage.settings).list_topics(timeout=20).topics
        partitions = [partition for topic in topics.values() for partition in topic.partitions.values()]
        if all(len(partition.isrs) == len(partition.replicas) for partition in partitions):
            return
        time.sleep(0.5)
