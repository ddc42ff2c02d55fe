"""Epochs of a stream increase strictly, even if the clock of the publishing machine was set back."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from confluent_kafka import Message

from codecflow.errors import ConfigError, KafkaError, MessageError
from codecflow.kafka.records import appended_ms, is_future
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import partition_of
from codecflow.messages import (
    MAX_CLOCK_MS,
    MAX_EPOCH_AHEAD_MS,
    CameraLost,
    EndOfEpoch,
    PictureMetadata,
    StreamState,
    decode_metadata,
    decode_state,
)

WITHIN_S = 5.0
"""Time limit of the search in each of two topics. What is not found by then counts as missing."""

_NEWEST = (1_000, 10_000, 100_000)
"""How many records at the end of the stream's partition are searched for one of the stream, in successive attempts."""

_AHEAD_MS = 1_000
"""Clocks of two machines may differ by this much without a notice."""


_WithEpoch = PictureMetadata | EndOfEpoch | StreamState


def next_epoch(
    settings: KafkaSettings, stream: str, partitions: int, notice: Callable[[str], None], before: int = 0
) -> int:
    """The epoch in which to publish `stream`: the wall clock in ms, or the one after the newest in the topics, which have
    `partitions` partitions. `notice` is called when the newest is from a clock ahead of this one. `before`: the newest known
    here.

    Raises ConfigError when the epoch exceeds the wire's limit.
    """
    partition = partition_of(stream, partitions)
    answered, published = _answered(settings, stream, partition), _published(settings, stream, partition)
    now = int(time.time() * 1000)
    # An epoch that workers reject as impossible counts only if they answered it.
    newest = max([before, *answered, *(epoch for epoch, at_ms in published if epoch <= at_ms + MAX_EPOCH_AHEAD_MS)])
    if max(now, newest) >= MAX_CLOCK_MS:
        raise ConfigError(
            f"stream {stream}: an epoch cannot begin at {_utc(max(now, newest))}; check this machine's clock, and if that "
            "is right publish under another --stream"
        )
    if (latest := max([newest, *(epoch for epoch, _ in published)])) > now + _AHEAD_MS:
        notice(
            f"stream {stream}: its newest epoch is of {_utc(latest)}, {_ahead(latest - now)} ahead of this machine's clock, "
            f"{_utc(now)}: one of the two is wrong, check the clock; "
            + ("publishing as the epoch after it" if latest == newest else "workers leave out what is so far ahead")
        )
    return max(now, newest + 1)


def _answered(settings: KafkaSettings, stream: str, partition: int) -> list[int]:
    """The newest epoch that a worker has answered, if found. One of the future is not from a worker (compacted.py)."""
    epochs = [
        (_epoch(record, decode_state), record)
        for record in _records(settings, settings.topics.state, partition, None)
        if record.key() == stream.encode() and record.value()
    ]
    return [epoch for epoch, record in epochs[-1:] if not is_future(epoch, record)]


def _published(settings: KafkaSettings, stream: str, partition: int) -> list[tuple[int, int]]:
    """Epochs of the stream's records among the newest of its partition, each with the time in ms at which the broker
    received it (by this machine's clock, if the topic does not keep the broker's)."""
    until = time.monotonic() + WITHIN_S
    for newest in _NEWEST:
        records = _records(settings, settings.topics.metadata, partition, newest)
        of_stream = [record for record in records if record.key() == stream.encode()]
        if of_stream or len(records) < newest or time.monotonic() > until:
            now = int(time.time() * 1000)
            return [(_epoch(record, decode_metadata), appended_ms(record) or now) for record in of_stream]
    return []


def _records(settings: KafkaSettings, topic: str, partition: int, newest: int | None) -> list[Message]:
    try:
        with TopicTail(settings, topic, [partition], newest=newest) as tail:
            return tail.catch_up(WITHIN_S)
    except KafkaError:
        # Too much to read in time, or this user may only write. Publishing will fail if the brokers are down.
        return []


def _epoch(
    record: Message,
    decode: Callable[[bytes | None, bytes | None], PictureMetadata | EndOfEpoch | CameraLost | StreamState],
) -> int:
    """0 for records that workers cannot read either."""
    try:
        return decode(record.key(), record.value()).epoch
    except MessageError:
        return 0


def _ahead(ms: int) -> str:
    return f"{ms / 86_400_000:.1f} days" if ms > 86_400_000 else f"{ms / 1000:.0f} s"


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
