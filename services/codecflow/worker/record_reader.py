"""The records of one partition, decoded and checked: what cannot be used becomes a dead letter, by its coordinates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from codecflow.errors import MessageError
from codecflow.kafka.topics import misplaced
from codecflow.messages import (
    MAX_EPOCH_AHEAD_MS,
    CameraLost,
    CodedPicture,
    DeadLetter,
    EndOfEpoch,
    Headers,
    PictureMetadata,
    decode_metadata,
    decode_packet,
)

from .reports import Reports
from .resume import METADATA, PACKETS

Document = PictureMetadata | EndOfEpoch | CameraLost

T = TypeVar("T", CodedPicture, Document)

_REMEMBERED = 10_000
"""Streams of which is known whether they belong here, and streams whose future records are counted."""


class RecordReader:
    """Reads the records of partition `number` of both topics. `topics`: their names; `partitions`: how many each has.
    `check_partitions` is called when a record is in the wrong one; it raises KafkaError if their number has changed.
    `wall_ms`: milliseconds since 1970."""

    def __init__(
        self,
        number: int,
        topics: tuple[str, str],
        partitions: int,
        check_partitions: Callable[[], None],
        reports: Reports,
        wall_ms: Callable[[], int],
    ) -> None:
        self._number, self._topics, self._partitions = number, topics, partitions
        self._check_partitions, self._reports, self._wall_ms = check_partitions, reports, wall_ms
        self._misplaced: dict[str, str | None] = {}  # why a stream's records do not belong here
        self._future: Counter[str] = Counter()  # records of future epochs that are still to be reported

    def packet(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None,
        offset: int,
        appended_ms: int | None,
    ) -> CodedPicture | None:
        """A record of the packets topic. `appended_ms`: when the broker received it, if known."""
        return self._usable(PACKETS, key, offset, lambda: decode_packet(key, value, headers), appended_ms)

    def metadata(self, key: bytes | None, value: bytes | None, offset: int, appended_ms: int | None) -> Document | None:
        """A record of the metadata topic, like `packet`."""
        return self._usable(METADATA, key, offset, lambda: decode_metadata(key, value), appended_ms)

    def dead_letter(self, topic: int, key: bytes | None, offset: int, code: str, reason: str) -> None:
        """A record cannot be used, for the reason `code` of a DeadLetter."""
        stream = DeadLetter.key_text(key)
        self._reports.dead_letter(DeadLetter(self._topics[topic], self._number, offset, stream, code, reason))

    def _usable(
        self, topic: int, key: bytes | None, offset: int, decode: Callable[[], T], appended_ms: int | None
    ) -> T | None:
        try:
            message = decode()
        except MessageError as error:
            self.dead_letter(topic, key, offset, "unreadable", str(error))
            return None
        if wrong := self._why_misplaced(message.stream):
            self._check_partitions()
            self.dead_letter(topic, key, offset, "misplaced", wrong)
            return None
        # By the broker's clock, so that whoever reads the record again decides the same.
        ahead_ms = message.epoch - (self._wall_ms() if appended_ms is None else appended_ms)
        if ahead_ms > MAX_EPOCH_AHEAD_MS:
            reason = f"epoch {message.epoch} lies {_ahead(ahead_ms)} ahead of the broker's clock"
            self.dead_letter(topic, key, offset, "future-epoch", reason)
            self._report_future(message.stream, message.epoch, reason)
            return None
        return message

    def _why_misplaced(self, stream: str) -> str | None:
        """Why this is the wrong partition for the stream, which two workers would answer; None if it is not."""
        if stream not in self._misplaced:
            if len(self._misplaced) > _REMEMBERED:
                self._misplaced.clear()
            self._misplaced[stream] = misplaced(stream, self._number, self._partitions)
        return self._misplaced[stream]

    def _report_future(self, stream: str, epoch: int, reason: str) -> None:
        if len(self._future) > _REMEMBERED:
            self._future.clear()
        self._future[stream] += 1
        if self._reports.notice_throttled(
            f"future {stream}",
            f"stream {stream!r}: {self._future[stream]} records ignored: {reason}; set the clock of the machine that "
            f"publishes them right, and restart its producer",
            stream=stream,
            epoch=epoch,
        ):
            del self._future[stream]


def _ahead(ms: int) -> str:
    return f"{ms / 86_400_000:.1f} days" if ms > 86_400_000 else f"{ms / 3_600_000:.1f} hours"
