"""A presentation time for every packet, also where the container has none, and times that only go forward."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Any

import av
import av.error
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from codecflow.messages import ANNEX_B_CODECS

MAX_DELAY = 34
"""Pictures after which one that gave no frame never will: 16 frames of reordering (H.264 A.3.1, HEVC A.4.2), as fields."""

_WITHOUT_PTS = ("avi", "h264", "hevc")
"""Containers that have decoding times at best; pictures shown out of decode order need theirs worked out."""

_JUMP_BACK_S, _JUMP_AHEAD_S = 1.0, 60.0
"""Decoding times that jump by more than this do so because a clock was set or files were joined, not since time passed."""


class Timestamps:
    """Completes pts and dts of a track's packets.

    Elementary streams and AVI know no presentation times. H.264 and HEVC show pictures in another order than they are
    decoded in, so a decoder is asked for that order; other codecs are shown as they are decoded. Without any time at all,
    pictures are a frame apart. Times that jump go on where they were. `frame`: duration of one picture at the track's
    rate, in units of its time base.
    """

    def __init__(self, track: VideoStream, container_format: str, codec: str) -> None:
        self.frame = 1
        rate = track.guessed_rate or track.average_rate
        if rate and track.time_base:
            self.frame = max(1, round(1 / rate / track.time_base))
        unit_s = float(track.time_base or 1)
        self._back, self._ahead = int(_JUMP_BACK_S / unit_s), int(_JUMP_AHEAD_S / unit_s)
        self._ordered = codec in ANNEX_B_CODECS and container_format in _WITHOUT_PTS
        self._track = track
        self._next_dts: int | None = None
        self._shift = 0

    def complete(self, packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
        """The packets, each with a pts and a dts."""
        timed = map(self._decoding_time, packets)
        return _in_shown_order(timed, self._track.codec_context) if self._ordered else timed

    def _decoding_time(self, packet: Packet[Any]) -> Packet[Any]:
        """`packet` with a dts that follows on the one before, and a pts: its own, or else the dts."""
        if not packet.duration:
            packet.duration = self.frame
        if packet.dts is None:
            packet.dts = self._next_dts if self._next_dts is not None else packet.pts or 0
            if packet.pts is not None:
                packet.pts += self._shift
        else:
            jump = 0 if self._next_dts is None else packet.dts + self._shift - self._next_dts
            if jump < -self._back or jump > self._ahead:
                self._shift -= jump
            packet.dts += self._shift
            if packet.pts is not None:
                packet.pts += self._shift
        if packet.pts is None:
            packet.pts = packet.dts
        self._next_dts = packet.dts + packet.duration
        return packet


def _in_shown_order(packets: Iterable[Packet[Any]], context: VideoCodecContext) -> Iterator[Packet[Any]]:
    """The packets in their order, pts being the decoding times of all of them in the order in which they are shown.

    A decoder tells that order. Packets come out once it has shown their picture, or is too far ahead to do so.
    """
    decoder = VideoCodecContext.create(context.codec.canonical_name, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata, decoder.thread_count, decoder.copy_opaque = context.extradata, 1, True
    waiting: dict[int, Packet[Any]] = {}
    shown: set[int] = set()
    times: list[int] = []

    def decode(packet: Packet[Any] | None, index: int) -> None:
        try:
            frames = decoder.decode(packet)
        except av.error.FFmpegError:
            return
        for frame in frames:
            place = frame.opaque
            if isinstance(place, list) and place[0] in waiting:
                waiting[place[0]].pts = heapq.heappop(times)
                shown.add(place[0])

    def ready(until: int) -> Iterator[Packet[Any]]:
        for index in list(waiting):
            if index not in shown:
                if index > until:
                    return
                waiting[index].pts = heapq.heappop(times)
            shown.discard(index)
            yield waiting.pop(index)

    index = -1
    for index, packet in enumerate(packets):
        assert packet.dts is not None
        heapq.heappush(times, packet.dts)
        waiting[index] = packet
        packet.opaque = [index]
        decode(packet, index)
        yield from ready(index - MAX_DELAY)
    decode(None, index)
    yield from ready(index)
