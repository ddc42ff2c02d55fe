"""H.264 and HEVC as Annex B byte streams with parameter sets before every keyframe, so that a reader can start at any
keyframe.

Sources: ITU-T H.264 and H.265, Annex B (start codes) and 7.3 (NAL unit headers, parameter set ids); ISO/IEC 14496-15
(avcC, hvcC and length-prefixed NAL units).
"""

from __future__ import annotations

from collections.abc import Iterator

START_CODE = b"\0\0\0\1"

_H264_SEI, _H264_SPS, _H264_PPS = 6, 7, 8
_RECOVERY_POINT = 6
_HEVC_VPS, _HEVC_SPS, _HEVC_PPS = 32, 33, 34
_KINDS = {"h264": (_H264_SPS, _H264_PPS), "hevc": (_HEVC_VPS, _HEVC_SPS, _HEVC_PPS)}


class AnnexB:
    """Turns the pictures of one H.264 or HEVC track into self-contained Annex B.

    `extradata` is the container's: avcC, hvcC, Annex B, or nothing. Coded bytes of pictures stay unchanged, only length
    prefixes become start codes. A keyframe that lacks a parameter set gets the newest one of each id before it.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec = codec
        self._length_size = 0
        self._sets: dict[tuple[int, int], bytes] = {}
        if extradata:
            self.update(extradata)

    def update(self, extradata: bytes) -> None:
        """Parameter sets and NAL unit length size of new extradata."""
        if extradata[:3] == b"\0\0\1" or extradata[:4] == START_CODE:
            self._length_size = 0
            units = list(split_annex_b(extradata))
        elif self._codec == "h264":
            self._length_size, units = _read_avcc(extradata)
        else:
            self._length_size, units = _read_hvcc(extradata)
        for unit in units:
            self._keep(unit)

    def convert(self, data: bytes, keyframe: bool) -> tuple[bytes, bool]:
        """One picture as Annex B, and whether decoding can start there: at the container's keyframes and at recovery points.
        Raises ValueError when NAL unit lengths do not add up to the picture."""
        if self._length_size:
            units = list(_split_lengths(data, self._length_size))
            data = b"".join(START_CODE + unit for unit in units)
        else:
            units = list(split_annex_b(data))
        present = {self._keep(unit) for unit in units}
        if not keyframe and self._codec == "h264":
            keyframe = any(recovery_point(unit) for unit in units if nal_type(unit, "h264") == _H264_SEI)
        if keyframe:
            missing = [unit for name, unit in sorted(self._sets.items()) if name not in present]
            if missing:
                data = _after_delimiter(data, units, self._codec, missing)
        return data, keyframe

    def _keep(self, unit: bytes) -> tuple[int, int] | None:
        """Stores a parameter set under its type and id; None for any other NAL unit."""
        if len(unit) < 3:
            return None
        kind = nal_type(unit, self._codec)
        if kind not in _KINDS[self._codec] or (self._codec == "hevc" and _layer(unit)):
            return None
        name = (kind, _set_id(unit, kind))
        if kind in (_H264_SPS, _HEVC_SPS) and self._sets.get(name, unit) != unit:
            # A new sequence: picture parameter sets of the old one must not be repeated under it.
            for other in [key for key in self._sets if key[0] in (_H264_PPS, _HEVC_PPS)]:
                del self._sets[other]
        self._sets[name] = unit
        return name


def nal_type(unit: bytes, codec: str) -> int:
    """nal_unit_type of a NAL unit without its start code."""
    return unit[0] & 0x1F if codec == "h264" else unit[0] >> 1 & 0x3F


def _layer(unit: bytes) -> int:
    """nuh_layer_id of an HEVC NAL unit: 0 is the base video; higher layers add views, depth or quality."""
    return (unit[0] & 1) << 5 | unit[1] >> 3


def recovery_point(unit: bytes) -> list[bytes]:
    """The recovery point of an H.264 SEI NAL unit, as an SEI unit of its own; empty if there is none, or messages before it
    are faulty. (D.1.8: decoding can start at such a picture; after some pictures all samples are correct.)"""
    payload, position = unit[1:].replace(b"\0\0\3", b"\0\0"), 0
    while position + 2 <= len(payload):
        kind = size = 0
        for _ in range(2):
            kind, size = size, 0
            while position < len(payload) and payload[position] == 255:
                size, position = size + 255, position + 1
            if position == len(payload):
                return []
            size, position = size + payload[position], position + 1
        message = payload[position : position + size]
        if len(message) < size:
            return []
        if kind == _RECOVERY_POINT and message:
            return [bytes([_H264_SEI, _RECOVERY_POINT, size]) + message.replace(b"\0\0", b"\0\0\3") + b"\x80"]
        position += size
    return []


def split_annex_b(data: bytes) -> Iterator[bytes]:
    """NAL units of an Annex B byte stream, without start codes and trailing zeros."""
    position = data.find(b"\0\0\1")
    while position >= 0:
        start = position + 3
        position = data.find(b"\0\0\1", start)
        unit = data[start : position if position >= 0 else len(data)].rstrip(b"\0")
        if unit:
            yield unit


def _split_lengths(data: bytes, length_size: int) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        start = position + length_size
        position = start + int.from_bytes(data[position:start])
        if position > len(data):
            raise ValueError("a NAL unit is longer than its picture")
        if position > start:
            yield data[start:position]


def _after_delimiter(data: bytes, units: list[bytes], codec: str, missing: list[bytes]) -> bytes:
    """`data` with parameter sets before it, but after an access unit delimiter, which must stay first."""
    sets = b"".join(START_CODE + unit for unit in missing)
    delimiter = 9 if codec == "h264" else 35
    if units and nal_type(units[0], codec) == delimiter:
        end = data.find(units[0]) + len(units[0])
        return data[:end] + sets + data[end:]
    return sets + data


def _read_avcc(extradata: bytes) -> tuple[int, list[bytes]]:
    """(NAL unit length size, SPS and PPS) of an AVCDecoderConfigurationRecord."""
    if len(extradata) < 7:
        return 0, []
    units, position = [], 5
    for mask in (0x1F, 0xFF):
        if position >= len(extradata):
            break
        count, position = extradata[position] & mask, position + 1
        for _ in range(count):
            start = position + 2
            position = start + int.from_bytes(extradata[position:start])
            units.append(extradata[start:position])
    return (extradata[4] & 3) + 1, units


def _read_hvcc(extradata: bytes) -> tuple[int, list[bytes]]:
    """(NAL unit length size, VPS, SPS and PPS) of an HEVCDecoderConfigurationRecord."""
    if len(extradata) < 23:
        return 0, []
    units, position = [], 23
    for _ in range(extradata[22]):
        count, position = int.from_bytes(extradata[position + 1 : position + 3]), position + 3
        for _ in range(count):
            start = position + 2
            position = start + int.from_bytes(extradata[position:start])
            units.append(extradata[start:position])
    return (extradata[21] & 3) + 1, units


def _set_id(unit: bytes, kind: int) -> int:
    """Id of a parameter set. HEVC sequences are distinguished by type alone: their id comes after a profile of variable
    length."""
    if kind == _H264_SPS:
        return _exp_golomb(unit[4:])
    if kind == _H264_PPS:
        return _exp_golomb(unit[1:])
    if kind == _HEVC_VPS:
        return unit[2] >> 4
    if kind == _HEVC_PPS:
        return _exp_golomb(unit[2:])
    return 0


def _exp_golomb(data: bytes) -> int:
    """The first ue(v) of `data` (H.264, 9.1). Ids are small, so emulation prevention bytes cannot precede it."""
    bits = int.from_bytes(data[:8].ljust(8, b"\0"))
    zeros = 64 - bits.bit_length()
    return (bits >> (63 - 2 * zeros)) - 1 if zeros <= 31 else 0
