"""Detects which packets of a source lack bytes that were lost in transmission.

The transport knows what a decoder cannot see: a hole in a picture often decodes without an error, to wrong samples.

- MPEG-TS numbers its packets, and FFmpeg marks those assembled around a gap. But its parser assigns the mark of one
  picture's packets to the previous picture, which they complete. The first picture has no previous one: its gap is in the
  log, with its decoding time. Where files were joined, the numbers jump as well, and so do the times; nothing is missing
  there.
- RTP also numbers its packets; FFmpeg reports only in its log how many it missed. The gap is in the picture that it returns
  next or in the one after that. Over TCP a camera may also leave packets out, when its own buffer is full; FFmpeg checks the
  numbers only with a queue (TCP_OPTIONS).
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import av.logging
from av.packet import Packet

TCP_OPTIONS = {"reorder_queue_size": "2"}
"""Of FFmpeg's RTSP demuxer for TCP: gaps are noticed immediately, nothing waits. Over UDP its own queue is longer."""

_PARSED = ("mpegts", "mpeg", "hls")
"""Containers whose pictures FFmpeg's parser has to find, with marks one picture late."""

_MISSED = "RTP: missed"
_CORRUPT = re.compile(r"Packet corrupt \(stream = (\d+), dts = (-?\d+)\)")
_PROBED = 50
"""Default for the pictures that FFmpeg may have read while it opened the source."""

_JOINT_S = 2.0
_TS_PACKETS = (188, 192, 204)
"""Sizes of an MPEG-TS packet in bytes: plain, with a time stamp, with error correction."""

_logging = threading.Lock()


class Transmission:
    """Finds out which packets of one opened container are damaged.

    Open the container within `opening`, then pass its packets through `packets`.
    """

    def __init__(self, *, rtp: bool) -> None:
        self._rtp = rtp
        self._unverified = 0  # packets read while opening, if some were missed
        self._corrupt: set[tuple[int, int]] = set()  # (stream, dts) of packets read while opening
        _listen()

    @contextmanager
    def opening(self) -> Iterator[None]:
        """FFmpeg reads ahead while it opens a source. A gap in RTP from then is in one of the first pictures."""
        with av.logging.Capture() as lines:
            yield
        texts = [text for _, _, text in lines]
        if self._rtp and any(_MISSED in text for text in texts):
            self._unverified = _PROBED
        found = filter(None, map(_CORRUPT.match, texts))
        self._corrupt = {(int(match[1]), int(match[2])) for match in found}

    def packets(
        self, container_format: str, demuxed: Iterable[Packet[Any]], *, cut: bool = False
    ) -> Iterator[Packet[Any]]:
        """The packets; `is_corrupt` says whether each is damaged. One that may be is held until the next one comes. `cut`:
        the last one is damaged, then all are held."""
        marks_are_late = container_format in _PARSED
        before = False
        held: Packet[Any] | None = None
        for packet, missed in self._read(demuxed):
            if held is not None:
                held.is_corrupt = held.is_corrupt and not (marks_are_late and _is_joint(held, packet))
                yield held
                held = None
            marked = packet.is_corrupt
            damaged = (before if marks_are_late else marked or before) or missed or self._unverified > 0
            damaged |= (packet.stream_index, packet.dts) in self._corrupt
            self._corrupt.clear()  # all others carry marks
            before = marked if marks_are_late else missed
            self._unverified = max(0, self._unverified - 1)
            packet.is_corrupt = damaged
            if damaged or cut:
                held = packet
            else:
                yield packet
        if held is not None:
            held.is_corrupt |= cut
            yield held

    def _read(self, demuxed: Iterable[Packet[Any]]) -> Iterator[tuple[Packet[Any], bool]]:
        """The packets with data, and whether something was missed while each was read."""
        packets = iter(demuxed)
        while True:
            lines: list[tuple[int, str, str]] = []
            try:
                if self._rtp:
                    with av.logging.Capture() as lines:
                        packet = next(packets)
                else:
                    packet = next(packets)
            except StopIteration:
                return
            except IndexError:
                # At the end, PyAV (18.1) flushes a track that began after the file was opened, and that it does not know.
                return
            if packet.size:
                yield packet, any(_MISSED in line for _, _, line in lines)


def ends_within_a_packet(container_format: str, size: int) -> bool:
    """Whether a file of MPEG-TS was truncated: its last picture has no end. FFmpeg's HEVC decoder does not notice."""
    return container_format == "mpegts" and size > 0 and all(size % packet for packet in _TS_PACKETS)


def _is_joint(last: Packet[Any], following: Packet[Any]) -> bool:
    """Whether one recording ends with `last` and another begins: with a keyframe, at a discontinuous time."""
    if not following.is_keyframe or last.dts is None or following.dts is None or following.time_base is None:
        return False
    return abs((following.dts - last.dts) * following.time_base) > _JOINT_S or following.dts < last.dts


def _listen() -> None:
    """Makes FFmpeg's warnings visible to PyAV; without a capture they go to a silent logger."""
    with _logging:
        logger = logging.getLogger("libav")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
            logger.propagate = False
        if (av.logging.get_level() or 0) < av.logging.WARNING:
            av.logging.set_level(av.logging.WARNING)
        av.logging.set_skip_repeated(False)
