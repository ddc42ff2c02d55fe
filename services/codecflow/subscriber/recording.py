"""Retained coded pictures of a stream in codecflow.packets, from any time on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from codecflow.errors import CodecFlowError, MessageError
from codecflow.kafka.partition_reader import PartitionReader
from codecflow.kafka.records import headers_of, is_future
from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import Closing
from codecflow.messages import CodedPicture, PictureMetadata, check_stream_id, decode_metadata, decode_packet

_FIRST_MARGIN_MS = 10_000
_MAX_GOP_BYTES = 64 << 20
_QUIET_S = 10.0


class NotThereError(CodecFlowError):
    """Requested pictures are not in packets, or no longer."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class WallClock:
    """A moment, in ms since 1970-01-01 UTC: the first picture captured then or later."""

    ms: int

    def order(self, picture: CodedPicture) -> int:
        """Negative for a picture before it, 0 for one at it, positive for one after it."""
        return picture.captured_at_ms - self.ms

    @property
    def about_ms(self) -> int:
        return self.ms

    def __str__(self) -> str:
        return f"of {moment(self.ms)}"


@dataclass(frozen=True, slots=True)
class EpochTime:
    """A presentation time of an epoch: `seconds` since its stamp `start_pts`, in units of `time_base`."""

    epoch: int
    seconds: Fraction
    start_pts: int
    time_base: Fraction

    def order(self, picture: CodedPicture) -> int:
        """As WallClock's."""
        if picture.epoch != self.epoch:
            return picture.epoch - self.epoch
        beyond = (picture.pts - self.start_pts) * picture.time_base - self.seconds
        return (beyond > 0) - (beyond < 0)

    @property
    def about_ms(self) -> int:
        return self.epoch + int(1000 * self.seconds)

    def __str__(self) -> str:
        return f"at {float(self.seconds):g} s of epoch {self.epoch}"


Place = WallClock | EpochTime


class Recording(Closing):
    """The coded pictures of one stream in packets. Raises KafkaError as PartitionReader does."""

    def __init__(self, settings: KafkaSettings, stream: str, stopping: Callable[[], bool] = lambda: False) -> None:
        self._settings, self.stream = settings, check_stream_id(stream)
        self._key = stream.encode()
        self._stopping = stopping
        self._history = PartitionReader(settings, settings.topics.packets, stream)

    def close(self) -> None:
        self._history.close()

    def pictures(self, place: Place, *, follow: bool = False) -> Iterator[CodedPicture]:
        """Its pictures in decode order, from the newest keyframe before `place` to the end; with `follow` also later ones,
        as they come. Raises NotThereError when there is no such keyframe, stating what there is."""
        low, high = self._history.range()
        margin_ms = _FIRST_MARGIN_MS
        while True:
            begin = self._history.offset_at(place.about_ms - margin_ms)
            begin = high if begin is None else begin
            gop: list[CodedPicture] | None = None
            held, before = 0, False
            reading = self._own(begin, follow)
            for picture in reading:
                order = place.order(picture)
                before = before or order < 0
                if picture.keyframe and order <= 0:
                    gop, held = [], 0
                if gop is None:
                    if order > 0:
                        break
                    continue
                gop.append(picture)
                held += len(picture.data)
                if order >= 0:
                    yield from gop
                    yield from reading
                    return
                if held > _MAX_GOP_BYTES:
                    gop = None
            else:
                if self._stopping():
                    return
                if before:
                    raise self._gone(place)  # it is later than everything retained
            if begin <= low:
                raise self._gone(place)
            margin_ms *= 4

    def oldest(self) -> CodedPicture | None:
        """The first retained keyframe."""
        return next((picture for picture in self._own(0, False) if picture.keyframe), None)

    def newest(self) -> CodedPicture | None:
        """The last retained picture."""
        low, high = self._history.range()
        back = 500
        while True:
            begin = max(low, high - back)
            found = None
            for picture in self._own(begin, False):
                found = picture
            if found is not None or begin <= low:
                return found
            back *= 8

    def newest_gop(self) -> list[CodedPicture]:
        """The pictures from the last keyframe on; empty without a keyframe."""
        newest = self.newest()
        if newest is None:
            return []
        gop: list[CodedPicture] = []
        try:
            for picture in self.pictures(WallClock(newest.captured_at_ms)):
                if picture.keyframe:
                    gop = []
                gop.append(picture)
        except NotThereError:
            return []
        return gop

    def at(self, seconds: Fraction, epoch: int | None = None) -> EpochTime:
        """A presentation time of an epoch, by default the newest. Raises NotThereError."""
        if epoch is None:
            newest = self.newest()
            if newest is None:
                raise NotThereError(f"stream {self.stream}: packets hold none of its pictures")
            epoch = newest.epoch
        start = _epoch_start(self._settings, self.stream, epoch)
        if start is None:
            raise NotThereError(f"stream {self.stream}: there is no epoch {epoch} in metadata any more")
        return EpochTime(epoch, seconds, start.start_pts, start.time_base)

    def _own(self, offset: int, follow: bool) -> Iterator[CodedPicture]:
        """Its pictures from an offset on."""
        self._history.seek(offset)
        newest_epoch = 0
        quiet_since = time.monotonic()
        while not self._stopping():
            messages = self._history.poll()
            for message in messages:
                if message.key() != self._key:
                    continue
                try:
                    picture = decode_packet(message.key(), message.value(), headers_of(message))
                except MessageError:
                    continue
                # With two producers on one stream, the later epoch counts.
                if picture.epoch >= newest_epoch and not is_future(picture.epoch, message):
                    newest_epoch = picture.epoch
                    yield picture
            if messages:
                quiet_since = time.monotonic()
            if self._history.at_end and not follow and not messages:
                return
            if not messages and not follow and time.monotonic() - quiet_since > _QUIET_S:
                return

    def _gone(self, place: Place) -> NotThereError:
        oldest, newest = self.oldest(), self.newest()
        if oldest is None or newest is None:
            return NotThereError(f"stream {self.stream}: packets hold none of its pictures")
        there = f"{moment(oldest.captured_at_ms)} to {moment(newest.captured_at_ms)}"
        epochs = f" (epoch {oldest.epoch})" if oldest.epoch == newest.epoch else ""
        return NotThereError(
            f"stream {self.stream}: packets hold no pictures {place}; they hold those of {there}{epochs}"
        )


def moment(ms: int) -> str:
    """Wall clock in ms as local time, with its zone."""
    return datetime.fromtimestamp(ms / 1000).astimezone().isoformat(" ", "seconds")


def _epoch_start(settings: KafkaSettings, stream: str, epoch: int) -> PictureMetadata | None:
    """A metadata document of an epoch: each contains the epoch's start."""
    with PartitionReader(settings, settings.topics.metadata, stream) as history:
        for since_ms in (epoch - 60_000, 0):
            for document in history.of_stream(stream, since_ms, decode_metadata):
                if document.epoch == epoch and isinstance(document, PictureMetadata):
                    return document
    return None
