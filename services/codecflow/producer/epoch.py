"""One epoch of one stream on its way to Kafka."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Protocol

from codecflow.codec.signal import SignalExtractor
from codecflow.errors import SourceError
from codecflow.kafka.records import Record
from codecflow.kafka.settings import TopicNames
from codecflow.messages import (
    MAX_SIDE,
    CodedPicture,
    EndOfEpoch,
    PictureMetadata,
    encode_metadata,
    encode_packet,
)

from .summary import TOO_LARGE, Summary

_RECORD_OVERHEAD = 256 + 512
"""Bytes of a record beside key, value and extradata, at most: Kafka's batch header (61), lengths and fields (message format
v2), and the header with what is known of the picture (less than 400 bytes, whatever the numbers)."""


class Sender(Protocol):
    """Where records of one topic go, in order: `codecflow.kafka.sending.RecordSender`, or whoever wants to have them."""

    def send(self, record: Record) -> None: ...

    def flush(self) -> None: ...


class EpochPublisher:
    """Publishes the coded pictures of one epoch, and what the codec saw change, both in decode order.

    A picture is published together with its metadata, once the decoder has shown it to be sound: a few pictures late
    where the codec reorders. Corrupt pictures and those larger than `largest_record` bytes are dropped and counted, with
    what follows each up to the next keyframe, since nobody could decode it: a gap in seq tells readers.
    """

    def __init__(
        self,
        stream: str,
        epoch: int,
        interval: Fraction,
        senders: tuple[Sender, Sender],
        topics: TopicNames,
        largest_record: int,
        summary: Summary,
    ) -> None:
        self.next_seq = 0
        self._stream, self._epoch = stream, epoch
        self._packets, self._metadata = senders
        self._topics = topics
        self._largest_record = largest_record
        self._summary = summary
        self._extractor = SignalExtractor(interval)
        self._pending: dict[int, CodedPicture] = {}
        self._skipping = False
        self._before_s = summary.seconds
        summary.epoch, summary.ended = epoch, False

    def push(self, picture: CodedPicture) -> None:
        """Take one coded picture. Raises KafkaError when an earlier record failed."""
        self.next_seq = picture.seq + 1
        if self._skipping and not picture.keyframe:
            self._summary.dropped["after one too large"] += 1
            return
        self._skipping = self._record_bytes(picture) > self._largest_record
        if self._skipping:
            self._summary.dropped[TOO_LARGE] += 1
            return
        self._pending[picture.seq] = picture
        complete = self._extractor.push(picture)
        if max(self._extractor.width, self._extractor.height) > MAX_SIDE:
            raise SourceError(
                f"stream {self._stream}: pictures of {self._extractor.width}x{self._extractor.height}; at most "
                f"{MAX_SIDE}x{MAX_SIDE} can be published: let the camera send smaller ones, or scale the file down",
                "codec",
            )
        if picture.seq in self._pending and self._extractor.width:
            # The decoder knows the size of this very picture; the container may know only that of its first.
            self._pending[picture.seq] = replace(picture, width=self._extractor.width, height=self._extractor.height)
        self._publish(complete)

    def finish(self) -> None:
        """Publish what the decoder still held back, and wait until the brokers have it all."""
        self._publish(self._extractor.flush())
        self._packets.flush()
        self._metadata.flush()

    def close(self) -> None:
        """`finish`, then close the epoch in good order."""
        self.finish()
        key, value = encode_metadata(EndOfEpoch(self._stream, self._epoch, self.next_seq))
        self._metadata.send(Record(self._topics.metadata, key, value, f"stream {self._stream}, end of epoch"))
        self._metadata.flush()
        self._summary.metadata_bytes += len(value)
        self._summary.ended = True

    def _publish(self, complete: list[PictureMetadata]) -> None:
        for seq in self._extractor.take_lost():
            del self._pending[seq]
            self._summary.dropped["corrupt"] += 1
        for metadata in complete:
            picture = self._pending.pop(metadata.seq)
            what = f"stream {self._stream}, picture {metadata.seq}"
            key, value, headers = encode_packet(picture)
            self._packets.send(Record(self._topics.packets, key, value, what, headers))
            key, document = encode_metadata(metadata)
            self._metadata.send(Record(self._topics.metadata, key, document, what))
            self._count(metadata, len(document))

    def _count(self, metadata: PictureMetadata, document_bytes: int) -> None:
        summary = self._summary
        summary.pictures += 1
        summary.signals += metadata.signal is not None
        summary.packets_bytes += metadata.size
        summary.metadata_bytes += document_bytes
        summary.seconds = max(summary.seconds, self._before_s + metadata.time_s)

    def _record_bytes(self, picture: CodedPicture) -> int:
        """What its record takes at most; it is encoded only once its size in samples is known."""
        return len(picture.stream) + len(picture.data) + len(picture.extradata or b"") + _RECORD_OVERHEAD
