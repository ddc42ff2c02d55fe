"""Records of the compacted topics (streams, state) that are unusable, and how to remove them.

Such a record does no harm but stays indefinitely, and every starting worker reads it again: compaction removes a record only
once its key has a newer one, such as a tombstone: a record of the same key without a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import Message

from codecflow.errors import MessageError
from codecflow.messages import DeadLetter, StreamDescription, StreamState, decode_state, decode_stream

from .records import Record, is_future
from .sending import RecordSender
from .settings import KafkaSettings
from .tail import TopicTail
from .topics import check_topics, misplaced

REMOVE = "codecflow topics clean"
"""The command that removes them, for messages."""

_ACK_WITHIN_S = 30.0

Ends = tuple[int, int]
"""End offsets of the packets and the metadata topic in one partition."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """The coordinates of an unusable record, and the reason."""

    topic: str
    partition: int
    offset: int
    key: bytes
    reason: str

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.topic}[{self.partition}] offset {self.offset}, key {DeadLetter.key_text(self.key)[:60]!r}"


def usable_state(record: Message, partitions: int, ends: Ends) -> StreamState:
    """The state in a record of the state topic. `partitions`: how many it has; `ends`: those of its own partition, requested
    after it was read. Raises MessageError if it is no state, or an impossible one."""
    state = decode_state(record.key(), record.value())
    if wrong := misplaced(state.stream, record.partition(), partitions):
        raise MessageError(f"state: {wrong}")
    if is_future(state.epoch, record):
        raise MessageError(f"state: epoch {state.epoch} lies ahead of the broker's clock")
    if state.packets_offset > ends[0] or state.metadata_offset > ends[1]:
        raise MessageError(
            f"state: offsets {state.packets_offset} and {state.metadata_offset} lie behind the ends of the topics, "
            f"{ends[0]} and {ends[1]}"
        )
    return state


def usable_description(record: Message, partitions: int) -> StreamDescription | None:
    """The description in a record of the streams topic, of `partitions` partitions; empty for a tombstone. None: a tombstone
    of what was never a description.

    Raises MessageError if it is none, or in another partition than its stream's: of two descriptions in different partitions
    none is the newer one, so readers would disagree.
    """
    deleted = record.value() is None
    try:
        described = decode_stream(record.key(), record.value())
        if wrong := misplaced(described.stream, record.partition(), partitions):
            raise MessageError(f"stream: {wrong}")
    except MessageError:
        if deleted:
            return None
        raise
    return described


def picture_ends(settings: KafkaSettings, tail: TopicTail) -> dict[int, Ends]:
    """By partition, the ends of packets and metadata, for the partitions of the state topic that `tail` reads. Raises
    KafkaError."""
    packets, metadata = (tail.ends_of(topic) for topic in (settings.topics.packets, settings.topics.metadata))
    return {number: (end, metadata[number]) for number, end in packets.items()}


def find_unusable(settings: KafkaSettings) -> list[Unusable]:
    """Every unusable record of streams and state. Raises KafkaError."""
    partitions = check_topics(settings)
    with TopicTail(settings, settings.topics.streams) as streams, TopicTail(settings, settings.topics.state) as state:
        described, states = newest(streams.catch_up()), newest(state.catch_up())
        count = streams.partitions
        ends = picture_ends(settings, state)
    found = []
    for record in described:
        try:
            usable_description(record, count)
        except MessageError as error:
            found.append(_unusable(record, error))
    for record in states:
        try:
            usable_state(record, partitions, ends[record.partition() or 0])
        except MessageError as error:
            found.append(_unusable(record, error))
    return found


def of_stream(settings: KafkaSettings, stream: str) -> list[Unusable]:
    """The states of one stream, usable or not, in any partition. Raises KafkaError."""
    with TopicTail(settings, settings.topics.state) as tail:
        found = newest(tail.catch_up())
    return [_unusable(record, "removed by hand") for record in found if record.key() == stream.encode()]


def remove(settings: KafkaSettings, records: Sequence[Unusable]) -> None:
    """Write a tombstone for each, in its own partition. Raises KafkaError."""
    with RecordSender(settings) as sender:
        for one in records:
            sender.send(Record(one.topic, one.key, None, f"a tombstone for {one.shown}", partition=one.partition))
        sender.flush(_ACK_WITHIN_S)


def newest(records: Sequence[Message]) -> Iterator[Message]:
    """What compaction would leave of a topic: the last record of each partition and key, without tombstones."""
    last = {(record.partition(), record.key()): record for record in records if record.key() is not None}
    return (record for record in last.values() if record.value() is not None)


def _unusable(record: Message, reason: object) -> Unusable:
    key = record.key() or b""
    return Unusable(record.topic() or "", record.partition() or 0, record.offset() or 0, key, str(reason))
