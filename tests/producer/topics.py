"""The contents of the topics after a producer, as seen by a reader."""

from __future__ import annotations

from dataclasses import dataclass

from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import CameraLost, CodedPicture, EndOfEpoch, PictureMetadata, decode_metadata, decode_packet


@dataclass(frozen=True)
class Published:
    """Every record of the two topics, in order; `partitions` in which they are."""

    packets: list[CodedPicture]
    metadata: list[PictureMetadata]
    ends: list[EndOfEpoch]
    lost: list[CameraLost]
    partitions: set[int]


def read(settings: KafkaSettings) -> Published:
    with TopicTail(settings, settings.topics.packets) as tail:
        packets = tail.catch_up()
    with TopicTail(settings, settings.topics.metadata) as tail:
        documents = tail.catch_up()
    pictures = [decode_packet(record.key(), record.value(), record.headers()) for record in packets]
    decoded = [decode_metadata(record.key(), record.value()) for record in documents]
    return Published(
        packets=pictures,
        metadata=[one for one in decoded if isinstance(one, PictureMetadata)],
        ends=[one for one in decoded if isinstance(one, EndOfEpoch)],
        lost=[one for one in decoded if isinstance(one, CameraLost)],
        partitions={record.partition() for record in [*packets, *documents]},
    )
