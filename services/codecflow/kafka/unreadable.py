"""Records that the client cannot unpack, and how to skip them.

A batch of perhaps a few kilobytes that unpacks to more than `receive.message.max.bytes` (100 MB) is an error to librdkafka
(zstd), which fetches it repeatedly. Anybody with write access to a topic could stop its readers with one.
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka import KafkaError as ClientError

UNREADABLE = (ClientError._BAD_COMPRESSION, ClientError._BAD_MSG)
REASON = "it cannot be unpacked: its batch is damaged, or of more than 100 MB"

RETRIES: dict[str, Any] = {"fetch.error.backoff.ms": 50}
"""Properties of a consumer that skips such a batch, which takes one fetch for each of its records."""


NO_GROUP = ClientError.GROUP_AUTHORIZATION_FAILED
"""Not fatal for a reader without a group: the client looks for the group's coordinator anyway."""


class RecordSkipper:
    """Lets one consumer skip records that it cannot unpack."""

    def __init__(self, client: Consumer) -> None:
        self._client = client
        self._last: dict[tuple[str, int], int] = {}

    def skip(self, message: Message) -> int | None:
        """Continue after the record of `message`, an error of UNREADABLE; returns its offset. To be called for the first
        such error of a partition in the result of one client call. None: the offset is unknown."""
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic is None or partition is None or offset is None or offset < 0:
            return None
        # librdkafka names the first record of the batch, whichever was requested.
        at = max(offset, self._last.get((topic, partition), -1) + 1)
        self._last[topic, partition] = at
        self._client.seek(TopicPartition(topic, partition, at + 1))
        return at

    def forget(self) -> None:
        """Partitions are now read from other positions."""
        self._last.clear()
