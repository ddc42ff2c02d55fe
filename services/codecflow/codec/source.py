"""Files and cameras as unchanged coded pictures, in decode order."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from codecflow.errors import SourceError
from codecflow.lifecycle import Closing
from codecflow.messages import ANNEX_B_CODECS, CodedPicture

from .addresses import Address
from .annexb import AnnexB
from .arrival import Arrival, arrivals, spread
from .clock import track_rules
from .display import Display
from .opening import SourceOptions, open_container, open_jpegs
from .order import DEEPEST, shown_order
from .pictures import AFTER_CORRUPT, CORRUPT
from .presentation import Timed, Timeline
from .reader import AbortedError, Reader, SilentError, StoppedError
from .source_errors import source_error
from .tracks import choose_track, codec_name
from .transmission import Transmission, ends_within_a_packet

MAX_UNREADABLE = 100
"""Consecutive failed reads after which the rest of a file counts as unreadable."""

KEYFRAME_WITHIN_S = 30.0
"""Seconds without a keyframe until the first notice; the next one at four times that, and so on, hourly at most."""

_GRACE_S = 2.0
"""Extra seconds for FFmpeg's own time-out to report the reason."""

_PACKED = re.compile(rb"(DivX\d+(?:Build|b)\d+)p")

_DEFAULTS = SourceOptions()


class Source(Closing):
    """One opening of a video file, a pipe or a camera.

    `codec`: FFmpeg's name of the video track's codec. `width`, `height`: from the container, in luma samples. `seconds`:
    duration from the container, else 0. `live`: pictures arrive at the camera's own pace. `again`: reconnecting makes sense
    when it ends or breaks off. `dropped`: pictures and reads that were not passed on, by reason. `corrected`: times that
    were corrected, by kind (clock.py).

    `stopped` is polled while waiting for the source. `notice` is called with a line for people: which of several tracks is
    used, no keyframe for long, an unusual rotation, corrected times.

    Raises StoppedError once `stopped` returns True, and SourceError, whose `code` is one of those listed there.
    """

    def __init__(
        self,
        source: str,
        options: SourceOptions = _DEFAULTS,
        *,
        stopped: Callable[[], bool] = lambda: False,
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._address = address = Address.parse(source)
        self.name = address.shown
        self.dropped: Counter[str] = Counter()
        self.corrected: Counter[str] = Counter()
        self._options, self._notice = options, notice
        self._reader = Reader(stopped)
        # A file's reads end by themselves; all other reads may block indefinitely.
        self._reads_end = address.kind == "file"
        self._opened: list[InputContainer] = []  # by the reader's thread, perhaps after its caller has given up
        self._transmission = Transmission(rtp=address.kind == "rtsp" or address.scheme == "rtp")
        self._began = time.monotonic()
        self._container = self._open()
        try:
            tracks = choose_track(self._container, self.name, options.track)
        except SourceError:
            self.close()
            raise
        self._track = tracks.track
        if len(tracks.videos) > 1 and options.track is None:
            notice(
                f"source {self.name}: {len(tracks.videos)} video tracks: {tracks.listing()}; "
                f"taking {tracks.chosen + 1}, --track N takes another"
            )
        for other in self._container.streams:
            if other is not self._track:
                other.discard = Discard.all  # an HLS source then fetches one rendition only
        context = self._track.codec_context
        self.codec = codec_name(self._track)
        self.width, self.height = context.width, context.height
        track_s = (self._track.duration or 0) * (self._track.time_base or Fraction(0))
        self.seconds = float(track_s or Fraction(self._container.duration or 0, 1_000_000))
        self.live = self._is_live()
        self.again = self.live and address.remote
        paced = self.live and address.kind not in ("http", "pipe")
        self._rules = track_rules(self._track, self._container.format, live=self.live, paced=paced)
        self.time_base: Fraction = self._rules.unit

    def pictures(self, stream: str, epoch: int, first_seq: int = 0, shift: int = 0) -> Iterator[CodedPicture]:
        """The coded pictures of the source, from its first keyframe on, `seq` counting from `first_seq`.

        `shift` is added to all times (in units of `time_base`), so that a file can be looped. May be called once. Raises
        SourceError when the source fails before its end.
        """
        context = self._track.codec_context
        order = shown_order(self.codec, context.reorder_depth, self._rules.units(60))
        timeline: Timeline[CodedPicture] = Timeline(self._rules, self._assumed_depth(context.reorder_depth))
        self.corrected = timeline.corrected
        failed: SourceError | None = None
        coded = self._coded(stream, epoch, first_seq)
        while True:
            try:
                arrival, picture = next(coded, (None, None))
            except SourceError as error:
                failed = error
                break
            if arrival is None:
                break
            if picture is None:
                order.lost()
                continue
            packet = arrival.packet
            key = order.key(picture.data, packet.pts)
            timed = timeline.push(
                picture,
                key,
                order.depth,
                packet.pts,
                packet.dts,
                shown=not packet.is_discard,
                arrived_s=arrival.at_s,
                waited_s=arrival.waited_s,
            )
            yield from self._with_times(timed, timeline, shift)
        # Pictures before the failure are valid.
        yield from self._with_times(timeline.flush(), timeline, shift)
        if failed is not None:
            raise failed

    def _coded(self, stream: str, epoch: int, first_seq: int) -> Iterator[tuple[Arrival, CodedPicture | None]]:
        """Arrivals from the first keyframe on, and the picture in each, without times yet; None for a damaged one and those
        after it up to the next keyframe."""
        extradata = _unpacked_extradata(self._track.codec_context.extradata)
        annex_b = AnnexB(self.codec, extradata) if self.codec in ANNEX_B_CODECS else None
        display = Display(self._track, self.codec, self._turned)
        watch = _KeyframeWatch(self.name, self._notice)
        seq, whole = first_seq, True
        for arrival in self._arrivals():
            packet = arrival.packet
            keyframe = packet.is_keyframe
            if packet.has_sidedata("new_extradata"):
                extradata = bytes(packet.get_sidedata("new_extradata"))
                if annex_b:
                    annex_b.update(extradata)
            data = bytes(packet)
            damaged = packet.is_corrupt
            if annex_b:
                try:
                    data, keyframe = annex_b.convert(data, keyframe)
                except ValueError:
                    damaged = True
            if seq == first_seq and not keyframe:
                self.dropped["before the first keyframe"] += 1
                watch.still()
                continue
            seq += 1
            whole = (whole or keyframe) and not damaged
            if not whole:
                self.dropped[CORRUPT if damaged else AFTER_CORRUPT] += 1
                watch.still()
                yield arrival, None
                continue
            watch.came()
            yield (
                arrival,
                CodedPicture(
                    stream=stream,
                    epoch=epoch,
                    seq=seq - 1,
                    data=data,
                    codec=self.codec,
                    keyframe=keyframe,
                    pts=0,
                    dts=None,
                    duration=packet.duration or 0,
                    time_base=self.time_base,
                    captured_at_ms=arrival.at_ms,
                    width=self.width,
                    height=self.height,
                    discard=packet.is_discard,
                    extradata=extradata if keyframe and annex_b is None else None,
                    live=self.live,
                    orientation=display.of(packet, data),
                ),
            )

    def _with_times(
        self, pictures: list[Timed[CodedPicture]], timeline: Timeline[CodedPicture], shift: int
    ) -> Iterator[CodedPicture]:
        for line in timeline.take_notices():
            self._notice(f"source {self.name}: {line}")
        for timed in pictures:
            picture = timed.item
            yield replace(
                picture,
                discard=picture.discard or not timed.shown,
                pts=timed.pts + shift,
                dts=None if timed.dts is None else timed.dts + shift,
                duration=picture.duration if self._rules.stamped and picture.duration > 0 else timeline.step,
            )

    def _assumed_depth(self, probed: int) -> int:
        """If the track does not state its reordering: as seen by FFmpeg, but a file without times can wait for more."""
        return probed if self._rules.stamped or self.live else DEEPEST.get(self.codec, probed)

    def _arrivals(self) -> Iterator[Arrival]:
        arrived = self._packets()
        if self.codec == "mpeg4":
            arrived = _unpacked(arrived, self._track)
        return spread(arrived, time.monotonic() - self._began) if self.live and not self._rules.stamped else arrived

    def _is_live(self) -> bool:
        """A camera's address and a pipe have no known end; a file on a web server has one."""
        kind, container = self._address.kind, self._container
        if kind == "http":
            # A multipart camera may state any length, and the length of a playlist is not that of the video.
            sized = container.format.name not in ("hls", "mpjpeg") and container.size > 0
            return not (container.duration or sized)
        if kind == "pipe":
            return self._options.piped_live and container.size <= 0
        return kind != "file"

    def _open(self) -> InputContainer:
        def opened() -> InputContainer:
            with self._transmission.opening():
                container = open_container(self._address, self._options, self._notice)
            self._opened.append(container)
            return container

        # Connecting, then probing the data; over RTSP perhaps twice, plus queries to the host.
        within = 6 * self._options.timeout_s + _GRACE_S if self._address.remote else math.inf
        try:
            return self._reader.call(opened, within)
        except (SourceError, StoppedError):
            self.close()
            raise
        except SilentError:
            error: Exception | str = "timeout"
        except AbortedError:
            error = "aborted"
        except (av.error.FFmpegError, OSError, ValueError) as failed:
            error = failed
        self.close()
        # Not chained: FFmpeg's own error contains the whole address, password included.
        raise self._error(error, opening=True)

    def _packets(self) -> Iterator[Arrival]:
        """Packets from the container, and their arrival. Raises SourceError when they stop before the source's end."""
        try:
            if self._reads_end:
                yield from arrivals(self._demuxed())
            else:
                within = self._options.timeout_s + _GRACE_S if self._address.remote else math.inf
                yield from self._reader.iterate(lambda: arrivals(self._demuxed()), within)
            return
        except SilentError:
            error: Exception | str = "timeout"
        except AbortedError:
            error = "aborted"
        except av.error.FFmpegError as failed:
            error = failed
        raise self._error(error, opening=False)

    def _demuxed(self) -> Iterator[Packet[Any]]:
        """Packets of the track. In files, unreadable places are counted and skipped."""
        failures, track = 0, self._track
        size = self._container.size if self._address.kind == "file" and self.codec == "hevc" else 0
        cut = ends_within_a_packet(self._container.format.name, size)
        while True:
            began = time.monotonic()
            try:
                demuxed = self._container.demux(track)
                for packet in self._transmission.packets(self._container.format.name, demuxed, cut=cut):
                    began = time.monotonic()
                    failures = 0
                    yield packet
                return
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                if not self._reads_end and time.monotonic() - began >= self._options.timeout_s:
                    raise SilentError from None
                if self._container.format.name == "mpjpeg" and isinstance(error, av.error.InvalidDataError):
                    # The parts do not have the stated length.
                    self._container = open_jpegs(self._address, self._options)
                    self._opened.append(self._container)
                    track = self._container.streams.video[0]
                    continue
                failures += 1
                if self.live or not isinstance(error, av.error.InvalidDataError):
                    raise
                self.dropped["unreadable"] += 1
                if failures >= MAX_UNREADABLE:
                    return

    def _error(self, error: Exception | str, *, opening: bool) -> SourceError:
        return source_error(self._address, error, opening=opening, timeout_s=self._options.timeout_s)

    def without_pictures(self) -> SourceError:
        """The error for a source that ended without a picture."""
        hint = ""
        if self._address.kind == "pipe" and self._container.format.name.startswith("mov"):
            hint = "; an MP4 whose index comes last cannot be piped: give the file's name, or pipe MPEG-TS"
        return SourceError(f"source {self.name}: no picture of its video track could be read{hint}", "codec")

    def _turned(self, off: float) -> None:
        self._notice(
            f"source {self.name}: its rotation is not a multiple of 90 degrees; using the nearest, {off:.0f} degrees off"
        )

    def close(self) -> None:
        """Release the source. Never waits for a silent host."""

        def release() -> None:
            while self._opened:
                self._opened.pop().close()

        self._reader.close(release)


class _KeyframeWatch:
    """Notices for people when a source sends undecodable pictures for a long time because no keyframe comes."""

    def __init__(self, name: str, notice: Callable[[str], None]) -> None:
        self._name, self._notice = name, notice
        self.came()

    def came(self) -> None:
        """A decodable picture arrived."""
        self._began = time.monotonic()
        self._next_s = KEYFRAME_WITHIN_S
        self._pictures = 0

    def still(self) -> None:
        """Another undecodable picture arrived."""
        self._pictures += 1
        waited_s = time.monotonic() - self._began
        if waited_s >= self._next_s:
            self._next_s = waited_s + min(3 * waited_s, 3600.0)
            self._notice(
                f"source {self._name}: no keyframe for {waited_s:.0f} s, none of its {self._pictures} pictures can be "
                "decoded; set an interval of 1 to 4 s between keyframes (I-frames) in the camera"
            )


def _unpacked(arrived: Iterator[Arrival], track: VideoStream) -> Iterator[Arrival]:
    """MPEG-4 pictures, one per packet. DivX 5 packed B-pictures: two pictures in one AVI chunk and an empty one in the next.
    Unpacked streams stay unchanged."""
    unpack = BitStreamFilterContext("mpeg4_unpack_bframes", track)
    for one in arrived:
        for packet in unpack.filter(one.packet):
            yield replace(one, packet=packet)


def _unpacked_extradata(extradata: bytes | None) -> bytes | None:
    """Removes the flag that makes decoders expect packed pictures."""
    return _PACKED.sub(rb"\1\0", extradata) if extradata else extradata


def clip_seconds(path: Path) -> float:
    """Duration of a file, from its container; 0 if not stated. Raises SourceError when it is no video."""
    with Source(str(path)) as source:
        return source.seconds
