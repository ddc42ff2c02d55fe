"""Outgoing records, and what a failed one means."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller
from typing import Any, Protocol

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message, Producer
from confluent_kafka import KafkaError as ClientError

from codecflow.errors import KafkaError
from codecflow.messages import MAX_EPOCH_AHEAD_MS

from .failures import BrokersGoneError, DeliveryError, RecordTooLargeError, reason
from .settings import KafkaSettings

Headers = list[tuple[str, bytes]]

BATCH_BYTES = 1_000_000
"""Bytes of a batch of records, to which a topic's `max.message.bytes` applies: librdkafka's `batch.size`."""

PARTITION_OF_KEY = -1
"""librdkafka's "unassigned": the partitioner decides."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record to be sent. `what` identifies it in errors, as in "stream gate-3, picture 41". `partition`: None means that
    of the key."""

    topic: str
    key: bytes
    value: bytes | None
    what: str
    headers: Headers | None = None
    partition: int | None = None


class WithHeaders(Protocol):
    """A record as returned by a client."""

    def headers(self) -> Any: ...


def headers_of(message: WithHeaders) -> Headers | None:
    """The headers of a record that was read, with raw values; None if there are none, or if one of their names is not UTF-8.
    To be called once per record.

    On such a name confluent-kafka (2.16) returns a list with null pointers and leaves an exception set. CPython checks for
    that in a call from C, such as methodcaller's; a call in bytecode may skip the check, and the exception then surfaces in
    unrelated code.
    """
    try:
        headers: Headers | None = _headers(message)
    except (SystemError, UnicodeDecodeError):
        return None
    return headers


_headers = methodcaller("headers")


class WithTimestamp(Protocol):
    """A record as returned by a client."""

    def timestamp(self) -> tuple[int, int]: ...


def appended_ms(message: WithTimestamp) -> int | None:
    """When the broker received a record, by its own clock in ms since 1970; None if the topic keeps the sender's clock
    (message.timestamp.type)."""
    kind, at_ms = message.timestamp()
    return at_ms if kind == TIMESTAMP_LOG_APPEND_TIME else None


def is_future(epoch: int, message: WithTimestamp) -> bool:
    """Whether an epoch lies so far ahead of the time at which the broker received its record that workers reject it. Every
    reader must: otherwise one such record, from a wrong clock or another program, hides all later pictures of its stream."""
    at_ms = appended_ms(message)
    return epoch - (int(time.time() * 1000) if at_ms is None else at_ms) > MAX_EPOCH_AHEAD_MS


Report = Callable[[ClientError | None, Message], None]
"""Called, within a later call of the client, with the outcome of a record."""


def produce(record: Record, client: Producer, report: Report) -> None:
    """Queue `record` in librdkafka. Raises what it raises: BufferError if the queue is full, KafkaException."""
    client.produce(
        record.topic,
        key=record.key,
        value=record.value,
        headers=record.headers,  # type: ignore[arg-type]  # a list of (str, bytes) is one of (str, str | bytes)
        partition=PARTITION_OF_KEY if record.partition is None else record.partition,
        on_delivery=report,
    )


def delivery_failure(record: Record, error: ClientError, settings: KafkaSettings, because: str = "") -> KafkaError:
    """The error to raise for a record that librdkafka or a broker refused. `because`: as BrokerWatch's."""
    size = len(record.value or b"")
    match error.code():
        case ClientError.MSG_SIZE_TOO_LARGE | ClientError.RECORD_LIST_TOO_LARGE | ClientError.INVALID_MSG_SIZE:
            advice = f"raise max.message.bytes of that topic, to {BATCH_BYTES} at least"
            if record.topic == settings.topics.packets:
                advice += " (and message.max.bytes here with -X, beyond 100 MB), or lower the bit rate"
            return RecordTooLargeError(
                f"{record.what}: {size} bytes are more than topic {record.topic} allows; {advice}", record.topic
            )
        case ClientError._MSG_TIMED_OUT:
            return BrokersGoneError(
                f"Kafka at {settings.bootstrap_servers}: {record.what} was not acknowledged within "
                f"{settings.give_up_after_s:g} s{because}; giving up"
            )
    cause = reason(error, settings, "Write", record.topic)
    return DeliveryError(f"{record.what}: topic {record.topic} rejected it: {cause}", record.topic)
