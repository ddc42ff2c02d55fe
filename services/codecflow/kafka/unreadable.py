"""Records that the client cannot unpack, and how to get past them.

A batch that unpacks to more than `receive.message.max.bytes` (100 MB), from a few kilobytes perhaps, is an error to
librdkafka (zstd), and it fetches it again and again. Whoever may write to a topic could stop its readers with one.
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka import KafkaError as ClientError

UNREADABLE = (ClientError._BAD_COMPRESSION, ClientError._BAD_MSG)
REASON = "it cannot be unpacked: its batch is damaged, or of more than 100 MB"

RETRIES: dict[str, Any] = {"fetch.error.backoff.ms": 50}
"""Properties of a consumer that steps over such a batch, which takes one fetch for each of its records."""


NO_GROUP = ClientError.GROUP_AUTHORIZATION_FAILED
"""No reason to end for a reader that uses no group: the client asks for the group's coordinator all the same."""


class Steps:
    """How one consumer steps over records that it cannot unpack."""

    def __init__(self, client: Consumer) -> None:
        self._client = client
        self._last: dict[tuple[str, int], int] = {}

    def over(self, message: Message) -> int | None:
        """Go on behind the record that `message`, an error of UNREADABLE, is about; its offset. To be called for the first
        such error of a partition in what a call to the client gave. None: it is not known where that is."""
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic is None or partition is None or offset is None or offset < 0:
            return None
        # librdkafka names the first record of the batch, whichever was asked for.
        at = max(offset, self._last.get((topic, partition), -1) + 1)
        self._last[topic, partition] = at
        self._client.seek(TopicPartition(topic, partition, at + 1))
        return at

    def forget(self) -> None:
        """Partitions are read from other places from now on."""
        self._last.clear()
