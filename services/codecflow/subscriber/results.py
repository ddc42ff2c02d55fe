"""Following answers as they are committed, from any number of programs: no consumer group, so nobody takes from another."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, TopicPartition

from codecflow.errors import KafkaError, MessageError
from codecflow.kafka.clients import BrokerWatch, consumer, require_broker
from codecflow.kafka.failures import TopicsError, client_error
from codecflow.kafka.partitions import partition_of
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Result, check_stream_id, decode_result

_logger = logging.getLogger(__name__)
_REQUEST_S = 30.0
PASSING = (ClientError._TRANSPORT, ClientError._ALL_BROKERS_DOWN, ClientError._TIMED_OUT)
"""Faults that librdkafka mends by itself; BrokerWatch says when they have lasted too long."""


class Follower(Iterator[Result]):
    """Results of `stream`, or of all streams, one at a time in the order of each stream's windows, as they are committed.

    What is followed is fixed when the follower is made: results committed later, and with `from_beginning` those that the
    topic still holds. Iteration ends after `timeout_s` seconds without a result (None: never), or once `stopping()` is true
    and everything committed until then has been given out. A record that is no result is logged and passed over.

    Raises TopicsError when there is no results topic, KafkaError when the brokers are gone for good.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        stream: str | None = None,
        *,
        from_beginning: bool = False,
        timeout_s: float | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._key = None if stream is None else check_stream_id(stream).encode()
        self._timeout_s = timeout_s
        self._stopping = stopping
        self._ends: dict[int, int] | None = None
        self._reached: dict[int, int] = {}
        self._topic = f"{settings.topic_prefix}.results"
        found = require_broker(settings).list_topics(timeout=_REQUEST_S).topics
        if self._topic not in found:
            raise TopicsError(
                f"missing topic {self._topic} at {settings.bootstrap_servers}: run: codecflow topics create"
            )
        count = len(found[self._topic].partitions)
        self._partitions = range(count) if stream is None else [partition_of(stream, count)]
        self._watch = BrokerWatch(settings)
        # A position never passes a transaction's closing mark; the offset of an end-of-partition event does.
        self._client = consumer(
            settings, f"{settings.topic_prefix}-follower", self._watch, **{"enable.partition.eof": True}
        )
        # Fixed now, not at the first poll, so that nothing committed in between is missed.
        edges = {number: self._edges(number) for number in self._partitions}
        starts = {number: low if from_beginning else end for number, (low, end) in edges.items()}
        self._reached.update(starts)
        self._client.assign([TopicPartition(self._topic, number, start) for number, start in starts.items()])

    def __next__(self) -> Result:
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while deadline is None or time.monotonic() < deadline:
            if self._ends is None and self._stopping():
                self._ends = {number: self._edges(number)[1] for number in self._partitions}
            if self._drained():
                break
            message = self._client.poll(0.2)
            if message is None:
                self._watch.check(self._client)
                continue
            error = message.error()
            if error is not None:
                if error.code() == ClientError._PARTITION_EOF:
                    self._reached[_number(message.partition())] = _number(message.offset())
                    continue
                if error.code() not in PASSING:
                    raise KafkaError(f"{self._topic}: cannot be read: {error.str()}")
                continue
            if self._key is not None and message.key() != self._key:
                continue
            try:
                return decode_result(message.key(), message.value())
            except MessageError as refused:
                _logger.warning("%s [%s] at %s: %s", self._topic, message.partition(), message.offset(), refused)
        raise StopIteration

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _edges(self, number: int) -> tuple[int, int]:
        try:
            low, end = self._client.get_watermark_offsets(TopicPartition(self._topic, number), timeout=_REQUEST_S)
        except KafkaException as error:
            raise KafkaError(f"{self._topic}: cannot be read: {client_error(error).str()}") from error
        return low, end

    def _drained(self) -> bool:
        """Whether everything committed until the stop has been given out."""
        return self._ends is not None and all(self._reached.get(number, 0) >= end for number, end in self._ends.items())


def _number(value: int | None) -> int:
    """confluent-kafka types coordinates as optional; those of consumed messages and events are always set."""
    assert value is not None
    return value
