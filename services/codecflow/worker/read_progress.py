"""How far the partitions of a worker have been read."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # named in no __all__
    OffsetSpec,
)

from codecflow.kafka.clients import BrokerWatch, admin_client
from codecflow.kafka.settings import KafkaSettings

from .partition import METADATA, PACKETS, Partition


class Progress:
    """How far partitions are read, relative to the topics' ends, which are requested from the brokers without blocking.

    librdkafka's PARTITION_EOF alone is not enough: it comes only after a fetch without records, which a busy partition never
    has. `lag`: unread records.
    """

    def __init__(self, settings: KafkaSettings, every_s: float = 1.0) -> None:
        self.lag = 0
        self._topics = (settings.topics.packets, settings.topics.metadata)
        self._admin = admin_client(settings, BrokerWatch(settings))
        self._every_s = every_s
        self._requested_at = 0.0
        self._requested: dict[TopicPartition, Future[Any]] = {}
        self._ends: dict[tuple[int, int], int] = {}  # (partition, topic) -> end
        self._pending: dict[tuple[int, int], tuple[float, int]] = {}  # (partition, topic) -> requested at, end

    def update(self, partitions: dict[int, Partition]) -> None:
        """Update the read progress of partitions, and request ends again when due. Does not block."""
        if self._requested and all(answer.done() for answer in self._requested.values()):
            for place, answer in self._requested.items():
                if answer.exception() is None:  # otherwise it is requested again
                    key = (place.partition, self._topics.index(place.topic))
                    self._ends[key] = answer.result().offset
                    self._pending.setdefault(key, (self._requested_at, self._ends[key]))
            self._requested = {}
        lag = 0
        for number, partition in partitions.items():
            for topic in (PACKETS, METADATA):
                position, key = partition.positions[topic], (number, topic)
                lag += max(0, self._ends.get(key, 0) - position)
                pending = self._pending.get(key)
                if pending is not None and position >= pending[1]:
                    partition.read_until(topic, pending[0])
                    del self._pending[key]
        self.lag = lag
        now = time.monotonic()
        if not self._requested and partitions and now >= self._requested_at + self._every_s:
            self._requested_at = now
            request = {
                TopicPartition(topic, number): OffsetSpec.latest() for number in partitions for topic in self._topics
            }
            self._requested = dict(self._admin.list_offsets(request, isolation_level=IsolationLevel.READ_COMMITTED))

    def forget(self, numbers: Iterable[int]) -> None:
        """Discard what was requested about these partitions."""
        dropped = set(numbers)
        self._requested = {place: answer for place, answer in self._requested.items() if place.partition not in dropped}
        for by_key in (self._ends, self._pending):
            for key in [key for key in by_key if key[0] in dropped]:
                del by_key[key]
