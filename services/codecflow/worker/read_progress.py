"""How far the partitions of a worker have been read."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka import KafkaError as ClientError
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # named in no __all__
    OffsetSpec,
)

from codecflow.kafka.clients import BrokerWatch, admin_client
from codecflow.kafka.failures import TopicsError, client_error
from codecflow.kafka.settings import KafkaSettings

from .partition import Partition
from .resume import METADATA, PACKETS

_HELD_S = 5.0
"""An end before which an open transaction has stood for this long is held back by it. Two requests are not answered at the
same moment."""

_MISSING = (ClientError.UNKNOWN_TOPIC_OR_PART, ClientError._UNKNOWN_TOPIC)
_MISSING_S = 20.0
"""How long a topic may be missing: somebody creates it again."""

Place = tuple[int, int]
"""(partition, topic)"""


class Progress:
    """How far partitions are read, relative to the topics' ends, which are requested from the brokers without blocking.

    librdkafka's PARTITION_EOF alone is not enough: it comes only after a fetch without records, which a busy partition never
    has. Nor is a topic read to its end while an open transaction of another program holds back what comes after its first
    record. `lag`: unread records.
    """

    def __init__(self, settings: KafkaSettings, every_s: float = 1.0) -> None:
        self.lag = 0
        self._topics = (settings.topics.packets, settings.topics.metadata)
        self._settings = settings
        self._admin = admin_client(settings, BrokerWatch(settings))
        self._every_s = every_s
        self._requested_at = 0.0
        self._missing_since: float | None = None
        self._requested: dict[IsolationLevel, dict[TopicPartition, Future[Any]]] = {}
        self._ends: dict[Place, int] = {}
        self._open: dict[Place, tuple[int, float, int]] = {}  # end, since when it stands there, end with transactions
        self._pending: dict[Place, tuple[float, int]] = {}  # requested at, end

    def update(self, partitions: dict[int, Partition]) -> None:
        """Update the read progress of partitions, and request ends again when due. Does not block. Raises TopicsError."""
        now = time.monotonic()
        if self._requested and all(
            answer.done() for answers in self._requested.values() for answer in answers.values()
        ):
            self._take(now)
        lag = 0
        for number, partition in partitions.items():
            for topic in (PACKETS, METADATA):
                position, place = partition.positions[topic], (number, topic)
                held = self._open.get(place)
                held_s = 0.0 if held is None else now - held[1]
                partition.hold(topic, 0.0 if held_s < _HELD_S else held_s)
                end = self._ends.get(place, 0) if held is None or held_s < _HELD_S else held[2]
                lag += max(0, end - position)
                pending = self._pending.get(place)
                if pending is not None and position >= pending[1]:
                    partition.read_until(topic, pending[0])
                    del self._pending[place]
        self.lag = lag
        if not self._requested and partitions and now >= self._requested_at + self._every_s:
            self._requested_at = now
            request = {
                TopicPartition(topic, number): OffsetSpec.latest() for number in partitions for topic in self._topics
            }
            for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
                self._requested[isolation] = dict(self._admin.list_offsets(request, isolation_level=isolation))

    def _take(self, now: float) -> None:
        """Take over the answers. What has failed is requested again."""
        committed, written = (
            {
                (place.partition, self._topics.index(place.topic)): answer.result().offset
                for place, answer in self._requested[isolation].items()
                if answer.exception() is None
            }
            for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
        )
        failed = len(committed) + len(written) < sum(map(len, self._requested.values()))
        self._check_topics(now)
        self._requested = {}
        if failed:  # another broker leads a partition now; not refresh_leaders, which blocks
            self._admin = admin_client(self._settings, BrokerWatch(self._settings))
        for place, end in committed.items():
            self._ends[place] = end
            self._pending.setdefault(place, (self._requested_at, end))
            before = self._open.pop(place, None)
            if written.get(place, 0) > end:
                since = now if before is None or before[0] != end else before[1]
                self._open[place] = end, since, written[place]

    def _check_topics(self, now: float) -> None:
        """Raises TopicsError when a topic has been missing for a while: the consumer says so minutes later."""
        missing = {
            place.topic
            for answers in self._requested.values()
            for place, answer in answers.items()
            if isinstance(error := answer.exception(), KafkaException) and client_error(error).code() in _MISSING
        }
        if not missing:
            self._missing_since = None
            return
        self._missing_since = self._missing_since or now
        if now > self._missing_since + _MISSING_S:
            raise TopicsError(f"topic {min(missing)} is missing: run: codecflow topics create")

    def forget(self, numbers: Iterable[int]) -> None:
        """Discard what was requested about these partitions."""
        dropped = set(numbers)
        self._requested = {}
        for by_place in (self._ends, self._open, self._pending):
            for place in [place for place in by_place if place[0] in dropped]:
                del by_place[place]
