"""One epoch of one stream on its way to Kafka."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from typing import Protocol

from codecflow.codec.pictures import MAX_PIXELS
from codecflow.codec.references import ReferenceMarks
from codecflow.codec.signal import SignalExtractor
from codecflow.errors import SourceError
from codecflow.kafka.records import Record
from codecflow.kafka.settings import TopicNames
from codecflow.messages import (
    MAX_SIDE,
    CameraLost,
    CodedPicture,
    EndOfEpoch,
    PictureMetadata,
    encode_metadata,
    encode_packet,
)
from codecflow.tracing import current

from .summary import AFTER_TOO_LARGE, TOO_LARGE, Summary

_RECORD_OVERHEAD = 256 + 512
"""Maximum bytes of a record without key, value and extradata: Kafka's batch header (61), lengths and fields (message format
v2), the header `picture` (less than 400 bytes, whatever the numbers), and a trace context."""


class Sender(Protocol):
    """Destination of one topic's records, in order: `codecflow.kafka.sending.RecordSender` or a replacement."""

    def send(self, record: Record) -> None: ...

    def flush(self) -> None: ...


class RecordCollector:
    """A Sender that collects records in the order in which they are sent, in place of a client."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def send(self, record: Record) -> None:
        self.records.append(record)

    def flush(self) -> None:
        """Nothing to wait for."""


class EpochPublisher:
    """Publishes the coded pictures of one epoch and their codec signal, both in decode order.

    A picture is published together with its metadata, once the decoder has shown it to be valid: a few pictures late if the
    codec reorders. Corrupt pictures and those larger than `largest_record` bytes are dropped and counted, together with
    those after them up to the next keyframe, which could not be decoded: readers see a gap in seq. Pictures that are never
    shown, but to which others refer, are published and counted. Pictures of more than `max_pixels` samples raise
    SourceError.
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
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.next_seq = 0
        self._stream, self._epoch = stream, epoch
        self._packets, self._metadata = senders
        self._topics = topics
        self._largest_record = largest_record
        self._summary = summary
        self._extractor = SignalExtractor(interval, max_pixels)
        self._marks = ReferenceMarks()
        self._pending: dict[int, CodedPicture] = {}
        self._skipping = False
        self._size: tuple[int, int] | None = None
        self._not_shown_before = summary.not_shown
        self._before_s = summary.seconds
        summary.epoch, summary.ended = epoch, False

    def push(self, picture: CodedPicture) -> None:
        """Add one coded picture. Raises KafkaError when an earlier record failed."""
        self.next_seq = picture.seq + 1
        if self._skipping and not picture.keyframe:
            self._summary.dropped[AFTER_TOO_LARGE] += 1
            return
        self._skipping = self._record_bytes(picture) > self._largest_record
        if self._skipping:
            self._summary.dropped[TOO_LARGE] += 1
            return
        picture = self._marks.mark(picture)
        self._pending[picture.seq] = picture
        self._publish(self._extractor.push(picture))

    def finish(self) -> None:
        """Publish what the decoder still held back, and wait until the brokers have acknowledged everything."""
        self._publish(self._extractor.flush())
        self._packets.flush()
        self._metadata.flush()

    def close(self) -> None:
        """`finish`, then close the epoch regularly."""
        self.finish()
        key, value = encode_metadata(EndOfEpoch(self._stream, self._epoch, self.next_seq))
        self._metadata.send(Record(self._topics.metadata, key, value, f"stream {self._stream}, end of epoch"))
        self._metadata.flush()
        self._summary.metadata_bytes += len(value)
        self._summary.ended = True

    def lost(self, code: str) -> None:
        """Publish that the camera is lost; call `finish` first."""
        key, value = encode_metadata(CameraLost(self._stream, self._epoch, code))
        self._metadata.send(Record(self._topics.metadata, key, value, f"stream {self._stream}, camera lost"))
        self._summary.metadata_bytes += len(value)

    def _publish(self, complete: list[PictureMetadata]) -> None:
        for seq, why in self._extractor.take_lost():
            del self._pending[seq]
            self._summary.dropped[why] += 1
        for metadata in complete:
            picture = self._sized(self._pending.pop(metadata.seq))
            what = f"stream {self._stream}, picture {metadata.seq}"
            # Every sampled frame has a signal: more traces would add nothing about windows.
            tracing = None if metadata.signal is None else current()
            span = None
            if tracing is not None:
                about: dict[str, str | int | float] = {
                    "codecflow.stream": self._stream,
                    "codecflow.epoch": self._epoch,
                    "codecflow.seq": picture.seq,
                }
                span = tracing.begin("publish", at_s=picture.captured_at_ms / 1000, attributes=about)
                picture = replace(picture, trace=span.traceparent)
            key, value, headers = encode_packet(picture)
            self._packets.send(Record(self._topics.packets, key, value, what, headers))
            key, document = encode_metadata(metadata)
            self._metadata.send(Record(self._topics.metadata, key, document, what))
            if span is not None:
                span.end()
            self._count(metadata, len(document))
        self._summary.not_shown = self._not_shown_before + self._extractor.not_shown

    def _sized(self, picture: CodedPicture) -> CodedPicture:
        """The picture with the size of its own frame; the container may know only that of its first. A picture without a
        frame gets the size of the previous one."""
        self._size = self._extractor.take_size(picture.seq) or self._size
        if self._size is None:
            return picture
        width, height = self._size
        if max(width, height) > MAX_SIDE:
            raise SourceError(
                f"stream {self._stream}: pictures of {width}x{height}; at most {MAX_SIDE}x{MAX_SIDE} can be published: let "
                "the camera send smaller ones, or scale the file down",
                "codec",
            )
        return replace(picture, width=width, height=height)

    def _count(self, metadata: PictureMetadata, document_bytes: int) -> None:
        summary = self._summary
        summary.pictures += 1
        summary.last_picture_s = time.time()
        summary.signals += metadata.signal is not None
        summary.packets_bytes += metadata.size
        summary.metadata_bytes += document_bytes
        summary.seconds = max(summary.seconds, self._before_s + metadata.time_s)

    def _record_bytes(self, picture: CodedPicture) -> int:
        """Upper bound of its record's size; it is encoded only once its size in samples is known."""
        return len(picture.stream) + len(picture.data) + len(picture.extradata or b"") + _RECORD_OVERHEAD
