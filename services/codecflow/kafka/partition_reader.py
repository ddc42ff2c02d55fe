"""Reading what one partition still holds, from any offset or time, outside consumer groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, Message, TopicPartition

from codecflow.errors import KafkaError, MessageError
from codecflow.lifecycle import Closing

from .clients import BrokerWatch, consumer, refresh_leaders, require_broker
from .failures import TopicsError, client_error, is_retriable, reason
from .settings import KafkaSettings
from .topics import partition_of
from .unreadable import NO_GROUP, RETRIES, UNREADABLE, RecordSkipper

T = TypeVar("T")

_BATCH = 200
_REQUEST_S, _RETRY_S = 30.0, 10.0


def partitions_of(settings: KafkaSettings, topic: str) -> int:
    """How many partitions a topic has. Raises BrokerUnreachableError or TopicsError."""
    try:
        found = require_broker(settings).list_topics(topic, timeout=_REQUEST_S).topics[topic]
    except KafkaException as error:
        raise KafkaError(f"topic {topic}: {settings.scrub(client_error(error).str())}") from error
    if found.error is not None or not found.partitions:
        raise TopicsError(f"topic {topic} is missing: run: codecflow topics create")
    return len(found.partitions)


class PartitionReader(Closing):
    """Committed records of the partition of `topic` that contains `stream`, including those of other streams.

    Raises BrokerUnreachableError or TopicsError.
    """

    def __init__(self, settings: KafkaSettings, topic: str, stream: str) -> None:
        self._settings, self._topic = settings, topic
        self._partition = partition_of(stream, partitions_of(settings, topic))
        self._watch = BrokerWatch(settings)
        self._consumer = consumer(
            settings,
            f"{settings.topic_prefix}.history",
            self._watch,
            **{"enable.partition.eof": True, "fetch.wait.max.ms": 100, "queued.max.messages.kbytes": 16_384, **RETRIES},
        )
        self._skipper = RecordSkipper(self._consumer)
        self.at_end = False
        """Whether the last `poll` reached the partition's end at that time."""

    def range(self) -> tuple[int, int]:
        """(offset of the oldest record, offset after the newest)."""
        partition = TopicPartition(self._topic, self._partition)
        low, high = self._request(lambda: self._consumer.get_watermark_offsets(partition, timeout=_REQUEST_S))
        return low, high

    def offset_at(self, ms: int) -> int | None:
        """Offset of the first record written at or after a wall clock in ms; None if there is none."""
        partition = TopicPartition(self._topic, self._partition, max(0, ms))
        (found,) = self._request(lambda: self._consumer.offsets_for_times([partition], timeout=_REQUEST_S))
        return None if found.offset < 0 else int(found.offset)

    def seek(self, offset: int) -> None:
        """Continue reading at `offset`, or at the oldest record if it is gone."""
        self.at_end = False
        self._skipper.forget()
        self._consumer.assign([TopicPartition(self._topic, self._partition, offset)])

    def poll(self, timeout_s: float = 0.2) -> list[Message]:
        """The next records; `timeout_s` is the longest wait for the first. Raises KafkaError, BrokersGoneError."""
        self._watch.check(self._consumer)
        found = []
        skipped = False
        first = self._consumer.poll(timeout_s)
        for message in () if first is None else (first, *self._consumer.consume(_BATCH, 0)):
            error = message.error()
            if error is None:
                found.append(message)
                self.at_end = False
            elif error.code() == ClientError._PARTITION_EOF:
                self.at_end = True
            elif error.code() in UNREADABLE:  # the worker reports it
                if not skipped:
                    self._skipper.skip(message)
                skipped = True
            elif error.code() != NO_GROUP and not is_retriable(error):
                raise self._error(error)
        return found

    def of_stream(self, stream: str, since_ms: int, decode: Callable[[bytes | None, bytes | None], T]) -> Iterator[T]:
        """The stream's records written at or after a wall clock in ms, decoded, up to the partition's end. Records that
        `decode` cannot read are skipped."""
        begin = self.offset_at(since_ms)
        if begin is None:
            return
        self.seek(begin)
        while not self.at_end:
            for message in self.poll():
                if message.key() != stream.encode():
                    continue
                try:
                    one = decode(message.key(), message.value())
                except MessageError:
                    continue
                yield one

    def close(self) -> None:
        self._consumer.close()

    def _request(self, call: Callable[[], T]) -> T:
        """A broker's answer; retried for a while if another broker leads the partition now."""
        until = time.monotonic() + _RETRY_S
        while True:
            try:
                return call()
            except KafkaException as error:
                failed = client_error(error)
                if not is_retriable(failed) or time.monotonic() > until:
                    raise self._error(failed) from error
                time.sleep(0.2)
                refresh_leaders(self._consumer, [self._topic])

    def _error(self, error: ClientError) -> KafkaError:
        return KafkaError(f"topic {self._topic}: {reason(error, self._settings, 'Read', self._topic)}")
