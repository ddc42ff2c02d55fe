"""A presentation time for every packet, also where the container has none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import av
from av.packet import Packet
from av.video.stream import VideoStream

from codecflow.messages import ANNEX_B_CODECS

_WITHOUT_PTS = ("avi", "h264", "hevc")
"""Containers that have decoding times at best; pictures shown out of decode order need theirs worked out."""


class Timestamps:
    """Completes pts and dts of a track's packets.

    Elementary streams and AVI know no presentation times. For H.264 and HEVC they follow from the picture order count in the
    slice headers (FFmpeg's dts2pts); other codecs are shown as they are decoded. Without any time at all, pictures are a
    frame apart. `frame`: duration of one picture at the track's rate, in units of its time base.
    """

    def __init__(self, track: VideoStream, container_format: str, codec: str) -> None:
        self.frame = 1
        rate = track.guessed_rate or track.average_rate
        if rate and track.time_base:
            self.frame = max(1, round(1 / rate / track.time_base))
        self._track = track
        reorders = codec in ANNEX_B_CODECS and container_format in _WITHOUT_PTS
        self._order = av.BitStreamFilterContext("dts2pts", track) if reorders else None
        self._next_dts: int | None = None

    def complete(self, packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
        """The packets, each with a pts and a dts."""
        for packet in packets:
            self._complete_dts(packet)
            if self._order is None:
                if packet.pts is None:
                    packet.pts = packet.dts
                yield packet
            else:
                yield from self._ordered(packet)
        if self._order is not None:
            yield from self._ordered(None)

    def _complete_dts(self, packet: Packet[Any]) -> None:
        if packet.dts is None:
            packet.dts = packet.pts if packet.pts is not None and self._order is None else self._next_dts or 0
        if not packet.duration:
            packet.duration = self.frame
        self._next_dts = packet.dts + (self.frame if self._order is not None else packet.duration)

    def _ordered(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        assert self._order is not None
        for completed in self._order.filter(packet):
            if completed.pts is None:
                completed.pts = completed.dts
            yield completed
