"""Packed B-pictures of DivX 5: two pictures in one AVI chunk, and an empty one in the next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from av.bitstream import BitStreamFilterContext
from av.video.stream import VideoStream

from .arrival import Arrival

_PACKED = re.compile(rb"(DivX\d+(?:Build|b)\d+)p")


def unpacked(arrived: Iterator[Arrival], track: VideoStream) -> Iterator[Arrival]:
    """MPEG-4 pictures, one in each packet. What is not packed stays as it is."""
    unpack = BitStreamFilterContext("mpeg4_unpack_bframes", track)
    for one in arrived:
        for packet in unpack.filter(one.packet):
            yield replace(one, packet=packet)


def unpacked_extradata(extradata: bytes | None) -> bytes | None:
    """Without the flag that makes decoders expect packed pictures."""
    return _PACKED.sub(rb"\1\0", extradata) if extradata else extradata
