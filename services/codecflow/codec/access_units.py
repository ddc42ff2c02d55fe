"""What a decoder receives of a coded picture, and what the picture's headers reveal about missing pictures.

FFmpeg reports a picture as broken because of accompanying messages that do not affect its samples (SEI, which many cameras
get wrong), shows H.264 pictures that refer to missing ones, and treats a JPEG without its last two bytes as broken. So
decoders receive only the data that determines samples. Published data stays unchanged.

Sources: ITU-T H.264 7.3.1, 7.3.2.1, 7.3.3, 7.4.3 (frame_num); ITU-T H.265 7.4.2.2 (NAL unit types);
ITU-T T.81 B.1.1.3 (markers).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from .annexb import START_CODE, nal_type, recovery_point, split_annex_b
from .headers import Bits, H264Sequence, HeaderError, h264_sequence, hevc_sequence

_H264_SLICES = frozenset({1, 5})
_H264_IDR, _H264_SEI, _H264_SPS, _H264_PPS = 5, 6, 7, 8
_H264_SETS = (_H264_SPS, _H264_PPS)
_HEVC_VPS, _HEVC_SPS, _HEVC_PPS = 32, 33, 34
_HEVC_SETS = (_HEVC_VPS, _HEVC_SPS, _HEVC_PPS)
_HEVC_ENDS = (36, 37)
"""End of sequence and end of bitstream, which determine how the next keyframe is decoded."""

_Set = tuple[int, int]
"""NAL unit type and id of a parameter set."""

_HEADER_BYTES = 48
"""Prefix of a slice that is long enough for everything up to its frame number."""

_JPEG_END = b"\xff\xd9"
_JPEG_ONES = b"\xff\0" * 8


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One coded picture in the form passed to a decoder.

    `data`: empty when nothing of the picture itself is there. `clean_start`: no later picture refers to anything before it.
    `gap`: pictures that it may refer to are missing. `reorder_depth`: the maximum number of pictures that precede, in decode
    order, one that is shown before them; None if the bitstream does not say, -1 if decoders determine it themselves.
    """

    data: bytes
    clean_start: bool = True
    gap: bool = False
    reorder_depth: int | None = -1


class AccessUnits(Protocol):
    """Reads the coded pictures of one stream, in decode order."""

    def read(self, data: bytes) -> AccessUnit: ...

    def restart(self) -> None:
        """The next picture does not continue the previous one."""
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
    """A complete scan needs no end marker. Appended end markers, which begin no Huffman code (T.81 C), turn reading past the
    end into an error; FFmpeg alone would not notice it in the last blocks."""

    def read(self, data: bytes) -> AccessUnit:
        scan = data.rstrip(b"\0")
        return AccessUnit(scan.removesuffix(_JPEG_END) + _JPEG_ONES + _JPEG_END)


class _ParameterSets:
    """The parameter sets that slices refer to. A faulty one that nothing refers to does no damage."""

    def __init__(self, read: Callable[[bytes], tuple[_Set, _Set | None]]) -> None:
        self._read = read
        self._units: dict[_Set, bytes] = {}
        self._parents: dict[_Set, _Set | None] = {}
        self._given: dict[_Set, bytes] = {}

    def restart(self) -> None:
        """The next decoder has none yet."""
        self._given.clear()

    def learn(self, unit: bytes) -> _Set | None:
        """Stores a parameter set; returns its type and id. None if it is faulty."""
        try:
            name, parent = self._read(unit)
        except (HeaderError, IndexError):
            return None
        self._units[name], self._parents[name] = unit, parent
        return name

    def of(self, slices: Iterable[_Set], present: Container[_Set | None]) -> list[bytes]:
        """The sets required by the picture parameter sets `slices`: those `present` in the picture or not yet passed on.
        Raises HeaderError when one never came."""
        needed: set[_Set] = set()
        for name in slices:
            one: _Set | None = name
            while one is not None:
                if one not in self._units:
                    raise HeaderError("no parameter set")
                needed.add(one)
                one = self._parents[one]
        given = [name for name in sorted(needed) if name in present or self._given.get(name) != self._units[name]]
        self._given.update((name, self._units[name]) for name in given)
        return [self._units[name] for name in given]


class _Hevc:
    """Slices of the base layer and their parameter sets. FFmpeg itself reports missing references as errors."""

    def __init__(self) -> None:
        self._sets = _ParameterSets(self._set)

    def restart(self) -> None:
        self._sets.restart()

    def read(self, data: bytes) -> AccessUnit:
        units = list(split_annex_b(data))
        base = [unit for unit in units if len(unit) > 2 and not unit[0] & 1 and not unit[1] >> 3]
        slices = [unit for unit in base if nal_type(unit, "hevc") < _HEVC_VPS]
        sets = [unit for unit in base if nal_type(unit, "hevc") in _HEVC_SETS]
        rest = [unit for unit in base if nal_type(unit, "hevc") in _HEVC_ENDS]
        if not slices:
            return AccessUnit(b"")
        present = {self._sets.learn(unit) for unit in sets}
        with suppress(HeaderError):  # otherwise the decoder reports what is wrong
            sets = self._sets.of(map(self._set_of, slices), present)
        return AccessUnit(_joined(data, units, sets + slices + rest))

    @staticmethod
    def _set(unit: bytes) -> tuple[_Set, _Set | None]:
        kind = nal_type(unit, "hevc")
        if kind == _HEVC_VPS:
            return (kind, unit[2] >> 4), None
        if kind == _HEVC_SPS:
            return (kind, hevc_sequence(unit)[0]), (_HEVC_VPS, unit[2] >> 4)
        bits = Bits(unit[:_HEADER_BYTES], 2)
        return (kind, bits.ue()), (_HEVC_SPS, bits.ue())

    @staticmethod
    def _set_of(unit: bytes) -> _Set:
        bits = Bits(unit[:_HEADER_BYTES], 2)
        bits.u(2 if 16 <= nal_type(unit, "hevc") <= 23 else 1)
        return _HEVC_PPS, bits.ue()


class _H264:
    """Slices, their parameter sets and recovery points.

    A frame number equals that of the previous reference picture, or is one higher; anything else means that reference
    pictures are missing, unless the sequence allows gaps (temporal layers, some of which were dropped). FFmpeg would
    continue with what it has. (After memory_management_control_operation 5, which no camera's encoder is known to use, a
    stream is treated as one with a gap.)
    """

    def __init__(self) -> None:
        self._sets = _ParameterSets(self._set)
        self._sequences: dict[int, H264Sequence] = {}
        self._sequence_of: dict[int, int] = {}  # by picture parameter set
        self._newest: int | None = None  # frame number of the newest reference picture

    def restart(self) -> None:
        self._sets.restart()
        self._newest = None

    def read(self, data: bytes) -> AccessUnit:
        units = list(split_annex_b(data))
        slices, sets, points = [], [], []
        for unit in units:
            kind = nal_type(unit, "h264")
            if kind in _H264_SLICES:
                slices.append(unit)
            elif kind in _H264_SETS:
                sets.append(unit)
            elif kind == _H264_SEI:
                points += recovery_point(unit)
        if not slices:
            return AccessUnit(b"")
        present = {self._sets.learn(unit) for unit in sets}
        idr = nal_type(slices[0], "h264") == _H264_IDR
        try:
            sets = self._sets.of(map(self._set_of, slices), present)
            sequence, number = self._header(slices[0])
        except HeaderError:  # the decoder reports what is wrong
            return AccessUnit(_joined(data, units, sets + points + slices), idr)
        before = self._newest
        if idr or slices[0][0] & 0x60:
            self._newest = number
        following = ((before or 0) + 1) & ((1 << sequence.frame_num_bits) - 1)
        gap = before is not None and not (idr or sequence.gaps_allowed) and number not in (before, following)
        return AccessUnit(_joined(data, units, sets + points + slices), idr, gap, sequence.depth)

    def _set(self, unit: bytes) -> tuple[_Set, _Set | None]:
        kind = nal_type(unit, "h264")
        if kind == _H264_SPS:
            name, self._sequences[name] = h264_sequence(unit)
            return (kind, name), None
        bits = Bits(unit[:_HEADER_BYTES], 1)
        name, owner = bits.ue(), bits.ue()
        self._sequence_of[name] = owner
        return (kind, name), (_H264_SPS, owner)

    @staticmethod
    def _set_of(unit: bytes) -> _Set:
        bits = Bits(unit[:_HEADER_BYTES], 1)
        bits.ue()
        bits.ue()
        return _H264_PPS, bits.ue()

    def _header(self, unit: bytes) -> tuple[H264Sequence, int]:
        """Sequence and frame number of a slice."""
        bits = Bits(unit[:_HEADER_BYTES], 1)
        bits.ue()
        bits.ue()
        sequence = self._sequences[self._sequence_of[bits.ue()]]
        if sequence.separate_colours:
            bits.u(2)
        return sequence, bits.u(sequence.frame_num_bits)


def _joined(data: bytes, units: list[bytes], kept: list[bytes]) -> bytes:
    return data if kept == units else b"".join(START_CODE + unit for unit in kept)
