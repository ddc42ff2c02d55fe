"""Files and cameras as coded pictures, untouched, in decode order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
from av.packet import Packet

from codecflow.errors import SourceError
from codecflow.messages import ANNEX_B_CODECS, VIDEO_CODECS, CodedPicture

from .annexb import AnnexB
from .source_errors import source_error
from .timestamps import Timestamps
from .urls import is_live, is_url, redact

MAX_UNREADABLE = 100
"""Reads that may fail in a row before a file counts as unreadable from there on."""


class Source:
    """One opening of a video file or camera.

    `codec`: FFmpeg's name of the video track's codec. `width`, `height`: as the container says, luma samples.
    `seconds`: how long it lasts, as the container says, else 0. `live`: pictures come at the camera's own pace. `dropped`:
    pictures and reads that were not passed on, by reason.

    Raises SourceError, whose `code` is missing, codec, auth, tls, timeout or gone.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        self.name = redact(url)
        self.dropped: Counter[str] = Counter()
        if not is_url(url) and not Path(url).is_file():
            kind = "is not a file" if Path(url).exists() else "no such file"
            raise SourceError(f"source {self.name}: {kind}; give a video file or a camera's address", "missing")
        options = {"rtsp_transport": "tcp"} if url.lower().startswith(("rtsp://", "rtsps://")) else {}
        try:
            self._container = av.open(url, "r", options=options, timeout=timeout_s)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            # Not chained: FFmpeg's own error names the whole address, password included.
            raise source_error(self.name, error, opening=True) from None
        videos = self._container.streams.video
        if not videos:
            self.close()
            raise SourceError(f"source {self.name}: it has no video track; give a file or camera that has one", "codec")
        self._track = videos[0]
        context = self._track.codec_context
        if context is None:
            self.close()
            raise SourceError(f"source {self.name}: no decoder for its video track; convert it to H.264", "codec")
        self.codec = context.codec.canonical_name
        if self.codec not in VIDEO_CODECS:
            self.close()
            raise SourceError(
                f"source {self.name}: codec {self.codec} cannot be published; convert it to H.264", "codec"
            )
        self.width, self.height = context.width, context.height
        self.time_base: Fraction = self._track.time_base or Fraction(1, 90_000)
        track_s = (self._track.duration or 0) * self.time_base
        self.seconds = float(track_s or Fraction(self._container.duration or 0, 1_000_000))
        self.live = is_live(url) or (is_url(url) and not self._container.duration)

    def pictures(self, stream: str, epoch: int, first_seq: int = 0, shift: int = 0) -> Iterator[CodedPicture]:
        """The coded pictures of the source, from its first keyframe on, `seq` counting from `first_seq`.

        `shift` is added to all times (in units of `time_base`), so that a file can be played again after itself. To be
        called once. Raises SourceError when the source fails before its end.
        """
        context = self._track.codec_context
        extradata = context.extradata
        annex_b = AnnexB(self.codec, extradata) if self.codec in ANNEX_B_CODECS else None
        times = Timestamps(self._track, self._container.format.name, self.codec)
        seq = first_seq
        for packet in times.complete(self._packets()):
            keyframe = packet.is_keyframe
            if seq == first_seq and not keyframe:
                self.dropped["before the first keyframe"] += 1
                continue
            if packet.has_sidedata("new_extradata"):
                extradata = bytes(packet.get_sidedata("new_extradata"))
                if annex_b:
                    annex_b.update(extradata)
            data = bytes(packet)
            if annex_b:
                try:
                    data = annex_b.convert(data, keyframe)
                except ValueError:
                    self.dropped["corrupt"] += 1
                    seq += 1
                    continue
            pts = packet.pts if packet.pts is not None else 0
            yield CodedPicture(
                stream=stream,
                epoch=epoch,
                seq=seq,
                data=data,
                codec=self.codec,
                keyframe=keyframe,
                pts=pts + shift,
                dts=None if packet.dts is None else packet.dts + shift,
                duration=packet.duration or times.frame,
                time_base=self.time_base,
                captured_at_ms=int(time.time() * 1000),
                width=self.width,
                height=self.height,
                discard=packet.is_discard,
                extradata=extradata if keyframe and annex_b is None else None,
            )
            seq += 1

    def _packets(self) -> Iterator[Packet[Any]]:
        """Packets as the container gives them. Unreadable places of a file are counted and passed over."""
        failures = 0
        while True:
            try:
                for packet in self._container.demux(self._track):
                    if packet.size:
                        failures = 0
                        yield packet
                return
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                failures += 1
                if self.live or not isinstance(error, av.error.InvalidDataError):
                    raise source_error(self.name, error, opening=False) from None
                self.dropped["unreadable"] += 1
                if failures >= MAX_UNREADABLE:
                    return

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def clip_seconds(path: Path) -> float:
    """How long a file lasts, as its container says; 0 where it does not. Raises SourceError when it is no video."""
    with Source(str(path)) as source:
        return source.seconds
