"""What a decoder is given of a coded picture, and what the picture's headers say of pictures that are missing.

FFmpeg calls a picture broken because of messages beside it that have nothing to do with its samples (SEI, which many
cameras get wrong), shows H.264 pictures that refer to pictures which never came, and takes a JPEG without its last two
bytes for a broken one. So decoders get what samples are made of, and nothing else. What is published stays untouched.

Sources: ITU-T H.264 7.3.1, 7.3.2.1, 7.3.3, 7.4.3 (frame_num); ITU-T H.265 7.4.2.2 (NAL unit types);
ITU-T T.81 B.1.1.3 (markers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .annexb import START_CODE, nal_type, recovery_point, split_annex_b
from .headers import Bits, H264Sequence, HeaderError, h264_sequence

_H264_SLICES = frozenset({1, 2, 3, 4, 5})
_H264_IDR, _H264_SEI, _H264_SPS, _H264_PPS = 5, 6, 7, 8
_HEVC_SETS_AND_ENDS = frozenset({32, 33, 34, 36, 37})
"""Parameter sets, and the ends of a sequence and of a bitstream, which say how the next keyframe is decoded."""

_HEADER_BYTES = 48
"""Of a slice, enough for everything up to its frame number."""

_JPEG_END = b"\xff\xd9"
_JPEG_ONES = b"\xff\0" * 8


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One coded picture as a decoder takes it.

    `data`: empty when nothing of the picture itself is there. `clean_start`: nothing after it refers to what was before it.
    `gap`: pictures that it may refer to are missing. `reorder_depth`: pictures that may at most precede, in decode order,
    one that is shown before them; None where the bitstream does not say, -1 where decoders find it by themselves.
    """

    data: bytes
    clean_start: bool = True
    gap: bool = False
    reorder_depth: int | None = -1


class AccessUnits(Protocol):
    """Reads the coded pictures of one stream, in decode order."""

    def read(self, data: bytes) -> AccessUnit: ...

    def restart(self) -> None:
        """The next picture does not follow on the one before it."""
        ...


def access_units(codec: str) -> AccessUnits:
    """The reader for FFmpeg's `codec`."""
    if codec == "h264":
        return _H264()
    if codec == "hevc":
        return _Hevc()
    return _Jpeg() if codec == "mjpeg" else _Untouched()


class _Untouched:
    def read(self, data: bytes) -> AccessUnit:
        return AccessUnit(data)

    def restart(self) -> None:
        pass


class _Jpeg(_Untouched):
    """A scan that is complete needs no end marker. Ones behind it, which begin no Huffman code (T.81 C), make an error of
    reading beyond the end; FFmpeg by itself would not notice it in the last blocks."""

    def read(self, data: bytes) -> AccessUnit:
        scan = data.rstrip(b"\0")
        return AccessUnit(scan.removesuffix(_JPEG_END) + _JPEG_ONES + _JPEG_END)


class _Hevc(_Untouched):
    """Slices of the base layer and parameter sets. A reference that is missing is an error to FFmpeg itself."""

    def read(self, data: bytes) -> AccessUnit:
        units = list(split_annex_b(data))
        kept = [unit for unit in units if self._needed(unit)]
        sliced = any(nal_type(unit, "hevc") < 32 for unit in kept)
        return AccessUnit(_joined(data, units, kept) if sliced else b"")

    @staticmethod
    def _needed(unit: bytes) -> bool:
        if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:
            return False  # of another layer
        kind = nal_type(unit, "hevc")
        return kind < 32 or kind in _HEVC_SETS_AND_ENDS


class _H264:
    """Slices, parameter sets and recovery points.

    A frame number is that of the reference picture before, or one more; anything else means that reference pictures are
    missing, unless the sequence allows gaps (layers in time, some of which were left out). FFmpeg would go on with what
    it has. (After memory_management_control_operation 5, which no camera's encoder is known to use, a stream is taken for
    one with a gap.)
    """

    def __init__(self) -> None:
        self._sequences: dict[int, H264Sequence] = {}
        self._sequence_of: dict[int, int] = {}  # by picture parameter set
        self._newest: int | None = None  # frame number of the newest reference picture

    def restart(self) -> None:
        self._newest = None

    def read(self, data: bytes) -> AccessUnit:
        units = list(split_annex_b(data))
        kept: list[bytes] = []
        first: bytes | None = None
        for unit in units:
            kind = nal_type(unit, "h264")
            if kind == _H264_SEI:
                kept += recovery_point(unit)
            elif kind in _H264_SLICES:
                kept.append(unit)
                first = first or unit
            elif kind in (_H264_SPS, _H264_PPS):
                kept.append(unit)
                self._learn(unit, kind)
        if first is None:
            return AccessUnit(b"")
        idr = nal_type(first, "h264") == _H264_IDR
        whole = _joined(data, units, kept)
        try:
            sequence, number = self._header(first)
        except HeaderError:
            return AccessUnit(whole, idr)  # the decoder finds what is wrong
        before = self._newest
        if idr or first[0] & 0x60:
            self._newest = number
        following = ((before or 0) + 1) & ((1 << sequence.frame_num_bits) - 1)
        gap = before is not None and not (idr or sequence.gaps_allowed) and number not in (before, following)
        return AccessUnit(whole, idr, gap, sequence.depth)

    def _learn(self, unit: bytes, kind: int) -> None:
        try:
            if kind == _H264_SPS:
                name, sequence = h264_sequence(unit)
                self._sequences[name] = sequence
            else:
                bits = Bits(unit[:_HEADER_BYTES], 1)
                self._sequence_of[bits.ue()] = bits.ue()
        except HeaderError:
            pass

    def _header(self, unit: bytes) -> tuple[H264Sequence, int]:
        """Sequence and frame number of a slice."""
        bits = Bits(unit[:_HEADER_BYTES], 1)
        bits.ue()
        bits.ue()
        sequence = self._sequences.get(self._sequence_of.get(bits.ue(), -1))
        if sequence is None:
            raise HeaderError("no parameter set")
        if sequence.separate_colours:
            bits.u(2)
        return sequence, bits.u(sequence.frame_num_bits)


def _joined(data: bytes, units: list[bytes], kept: list[bytes]) -> bytes:
    return data if kept == units else b"".join(START_CODE + unit for unit in kept)
