"""Files cut from packets, without re-encoding."""

from __future__ import annotations

import errno
import heapq
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error
from av.packet import Packet

from codecflow.codec.mp4 import description, track_of, turn_track
from codecflow.errors import ConfigError, SourceError
from codecflow.messages import CodedPicture
from codecflow.orientation import UPRIGHT

from .recording import NotThereError, Place, Recording

_LOOK_AHEAD = 32
"""Pictures examined to find how far decoding precedes showing."""


@dataclass(slots=True)
class ClipFile:
    """A written file. `seconds`: its playing time. `pictures`: those in it, including the ones before its start to which
    others refer."""

    path: Path
    codec: str
    size: tuple[int, int]
    epoch: int
    begin_ms: int
    pictures: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Clip:
    """The files of a clip. A new file starts where the camera reconnected or its pictures changed size or codec."""

    files: list[ClipFile] = field(default_factory=list)


def write_clip(recording: Recording, begin: Place, end: Place, out: Path) -> Clip:
    """Cut what is shown from `begin` until before `end` into MP4 files that play from `begin` on: the first is `out`,
    further ones have -2, -3 ... in their names. They appear when they are complete.

    Raises NotThereError, SourceError for a codec that MP4 does not support, ConfigError if a file cannot be written.
    """
    clip = Clip()
    with ExitStack() as stack:
        writer: _Writer | None = None
        for picture, shown in _within(recording.pictures(begin), begin, end):
            if writer is None or not writer.takes(picture):
                if not picture.keyframe:
                    continue
                if writer is not None:
                    writer.finish()
                path = out if not clip.files else out.with_stem(f"{out.stem}-{len(clip.files) + 1}")
                writer = stack.enter_context(_Writer(path, picture))
                clip.files.append(writer.file)
            writer.add(picture, shown)
        if writer is not None:
            writer.finish()
    clip.files = [file for file in clip.files if file.pictures]
    if not clip.files:
        raise NotThereError(f"stream {recording.stream}: no picture is shown between the two times")
    return clip


def _within(pictures: Iterable[CodedPicture], begin: Place, end: Place) -> Iterator[tuple[CodedPicture, bool]]:
    """Pictures up to `end`, each with whether it is shown at `begin` or later. Includes pictures that are decoded after the
    first one past `end` but shown before it, with what they refer to."""
    beyond: CodedPicture | None = None
    held: list[tuple[CodedPicture, bool]] = []
    for picture in pictures:
        one = (picture, begin.order(picture) >= 0)
        if end.order(picture) < 0 and (beyond is None or (beyond.epoch == picture.epoch and picture.pts < beyond.pts)):
            yield from held
            held = []
            yield one
            continue
        beyond = beyond or picture
        held.append(one)
        if len(held) >= _LOOK_AHEAD or picture.epoch != beyond.epoch:
            return


class _Writer:
    """One file. Decoding times are generated here: the sorted stamps of the pictures, shifted so that none is later than the
    time at which its picture is shown."""

    def __init__(self, path: Path, first: CodedPicture) -> None:
        self.file = ClipFile(path, first.codec, (first.width, first.height), first.epoch, first.captured_at_ms)
        self._first, self._description = first, description(first)
        self._partial = path.with_name(f".{path.name}.part")
        self._waiting: deque[CodedPicture] = deque()
        self._stamps: list[int] = []
        self._origin: int | None = None  # stamp of the first shown picture
        self._delay: int | None = None
        self._end = first.pts
        self._dts: int | None = None
        self._stack = ExitStack()
        try:
            with track_of(first) as template:
                # The format does not depend on the file name's ending.
                options = {"movflags": "faststart"}
                target = self._stack.enter_context(av.open(str(self._partial), "w", format="mp4", options=options))
                self._track = target.add_stream_from_template(template, opaque=True)
                self._track.time_base = first.time_base
                target.start_encoding()
                self._target = target
        except (OSError, av.error.FFmpegError, ValueError, OverflowError) as error:
            self._stack.pop_all()
            self._partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOSPC):
                raise ConfigError(f"{path}: {error.strerror}") from error
            raise _not_mp4(first, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, av.error.FFmpegError):
            self._stack.close()
        self._partial.unlink(missing_ok=True)

    def takes(self, picture: CodedPicture) -> bool:
        """Whether a picture continues this file."""
        return picture.epoch == self.file.epoch and (not picture.keyframe or description(picture) == self._description)

    def add(self, picture: CodedPicture, shown: bool) -> None:
        if picture.pts < self._first.pts:
            return  # it refers to pictures before the first keyframe
        if shown and self._delay is None and (self._origin is None or picture.pts < self._origin):
            self._origin, self.file.begin_ms = picture.pts, picture.captured_at_ms
        self._waiting.append(picture)
        heapq.heappush(self._stamps, picture.pts)
        if self._origin is not None and len(self._waiting) >= _LOOK_AHEAD:
            self._write()

    def finish(self) -> None:
        """The file is complete: give it its final name, unless nothing is in it."""
        while self._waiting:
            self._write()
        try:
            self._stack.close()
            if not self.file.pictures:
                return
            if self._first.orientation != UPRIGHT:
                _turn(self._partial, self._first)
            os.replace(self._partial, self.file.path)
        except OSError as error:
            raise ConfigError(f"{self.file.path}: {error.strerror or error}") from error
        except av.error.FFmpegError as error:
            raise _not_mp4(self._first, error) from error
        self.file.seconds = max(0.0, float((self._end - self._begin) * self._first.time_base))

    @property
    def _begin(self) -> int:
        return self._first.pts if self._origin is None else self._origin

    def _write(self) -> None:
        """The picture that has waited longest."""
        if self._delay is None:
            pairs = zip(sorted(self._stamps), self._waiting, strict=True)
            self._delay = max(stamp - picture.pts for stamp, picture in pairs)
        picture = self._waiting.popleft()
        stamp = heapq.heappop(self._stamps) - self._delay - self._begin
        pts = picture.pts - self._begin
        dts = min(pts, stamp)
        if self._dts is not None and dts <= self._dts:
            dts = self._dts + 1
        if dts > pts:
            return  # a repeated stamp, or far too late
        packet = Packet(picture.data)
        packet.stream, packet.time_base = self._track, picture.time_base
        packet.is_keyframe = picture.keyframe
        try:
            packet.pts, packet.dts, packet.duration = pts, dts, picture.duration
            self._target.mux(packet)
        except OSError as error:
            raise ConfigError(f"{self.file.path}: {error.strerror or error}") from error
        except (OverflowError, av.error.FFmpegError):
            return  # a time that MP4 cannot hold, such as one of a foreign record
        self._dts = dts
        self.file.pictures += 1
        self._end = max(self._end, picture.pts + picture.duration)


def _not_mp4(picture: CodedPicture, error: Exception) -> SourceError:
    reason = getattr(error, "strerror", None) or error
    return SourceError(f"stream {picture.stream}: its {picture.codec} cannot be put into MP4: {reason}", "codec")


def _turn(path: Path, picture: CodedPicture) -> None:
    """Writes the orientation of the pictures into a file."""
    with path.open("r+b") as file:
        at = 0
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[:4])
            if head[4:] == b"moov":
                moov = bytearray(head + file.read(size - 8))
                turn_track(moov, picture)
                file.seek(at)
                file.write(moov)
                return
            at += size
            file.seek(at)
