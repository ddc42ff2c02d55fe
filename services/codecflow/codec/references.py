"""Which coded pictures others refer to, read from their headers alone: what a lazy decoder may skip, and where it may start.
If a header is not understood, the answer is the safe one.

Sources: ITU-T H.264 7.3.1, 7.4.1 (nal_ref_idc), D.1.8 (recovery point); ITU-T H.265 7.4.2.2 (sub-layer non-reference
pictures, IRAP), 7.3.2.2 (sub-layers); AV1 specification 5.5, 5.9; VP9 specification 6.2; ISO/IEC 14496-2 6.2.5; ISO/IEC
13818-2 6.2.3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from codecflow.messages import CodedPicture

from .annexb import nal_type, split_annex_b
from .headers import sei_payload

_H264_SLICES = frozenset({1, 2, 3, 4, 5})
_H264_IDR, _H264_SEI = 5, 6
_RECOVERY_POINT = 6
_HEVC_SPS = 33
_HEVC_IRAP = range(16, 24)
_HEVC_SLICES = range(32)
_HEVC_NON_REFERENCE = range(0, 16, 2)


class References(Protocol):
    """Reads the pictures of one stream in decode order."""

    def disposable(self, data: bytes) -> bool:
        """Whether no other picture refers to this one. False if that is not certain."""
        ...


def references(codec: str) -> References:
    """The reader for FFmpeg's `codec`."""
    if codec == "hevc":
        return _Hevc()
    if codec == "av1":
        return _Av1()
    return _Stateless(_STATELESS.get(codec, lambda data: False))


class ReferenceMarks:
    """Marks the pictures of one epoch, in decode order, to which no other refers."""

    def __init__(self) -> None:
        self._codec = ""
        self._references: References = references("")

    def mark(self, picture: CodedPicture) -> CodedPicture:
        if picture.codec != self._codec:
            self._codec, self._references = picture.codec, references(picture.codec)
        disposable = self._references.disposable(picture.data) and not picture.keyframe
        return replace(picture, disposable=disposable) if disposable else picture


def clean_start(picture: CodedPicture) -> bool:
    """Whether decoding may start at this picture and give the same samples, for everything shown from it on, as decoding
    from an earlier one: a keyframe, except an H.264 picture after which samples recover gradually."""
    if not picture.keyframe:
        return False
    if picture.codec == "h264":
        return _h264_clean(picture.data)
    if picture.codec == "hevc":
        kinds = [nal_type(unit, "hevc") for unit in split_annex_b(picture.data)]
        return any(kind in _HEVC_IRAP for kind in kinds if kind in _HEVC_SLICES)
    return True


class _Stateless:
    def __init__(self, read: _Read) -> None:
        self._read = read

    def disposable(self, data: bytes) -> bool:
        try:
            return self._read(data)
        except IndexError:  # it ends too early
            return False


class _Read(Protocol):
    def __call__(self, data: bytes) -> bool: ...


def _h264_disposable(data: bytes) -> bool:
    slices = [unit for unit in split_annex_b(data) if nal_type(unit, "h264") in _H264_SLICES]
    return bool(slices) and not any(unit[0] & 0x60 for unit in slices)


def _h264_clean(data: bytes) -> bool:
    """An IDR picture, or one whose recovery point says that it is exact immediately."""
    for unit in split_annex_b(data):
        kind = nal_type(unit, "h264")
        if kind == _H264_IDR:
            return True
        if kind == _H264_SEI and _recovers_at_once(unit):
            return True
        if kind in _H264_SLICES:
            return False
    return False


def _recovers_at_once(unit: bytes) -> bool:
    """Whether a SEI NAL unit has a recovery point with recovery_frame_cnt 0 and exact_match_flag 1."""
    payload = sei_payload(unit[1:].replace(b"\0\0\3", b"\0\0"), _RECOVERY_POINT)
    # ue(0) is the bit 1, exact_match_flag follows.
    return payload is not None and len(payload) > 0 and payload[0] & 0xC0 == 0xC0


class _Hevc:
    """A sub-layer non-reference picture may still be referenced from a higher temporal layer."""

    def __init__(self) -> None:
        self._highest: int | None = None

    def disposable(self, data: bytes) -> bool:
        slices = []
        for unit in split_annex_b(data):
            if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:
                continue  # of another layer
            kind = nal_type(unit, "hevc")
            if kind == _HEVC_SPS:
                highest = unit[2] >> 1 & 7
                self._highest = highest if self._highest is None else max(self._highest, highest)
            elif kind in _HEVC_SLICES:
                slices.append((kind, (unit[1] & 7) - 1))
        return bool(slices) and all(kind in _HEVC_NON_REFERENCE and layer == self._highest for kind, layer in slices)


class _Bits:
    """Bits of `data`, most significant first; IndexError past its end."""

    def __init__(self, data: bytes, bits: int = 512) -> None:
        head = data[: bits // 8]
        self._bits, self._left = int.from_bytes(head), 8 * len(head)

    def __call__(self, count: int = 1) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError
        return self._bits >> self._left & ((1 << count) - 1)


def _vp9_disposable(data: bytes) -> bool:
    """One shown frame that refreshes neither a reference nor a probability context."""
    if data[-1] & 0xE0 == 0xC0:
        return False  # a superframe: several frames
    u = _Bits(data)
    if u(2) != 2:
        return False
    profile = u() + 2 * u()
    if profile == 3:
        u()
    existing, inter, shown, resilient = u(), u(), u(), u()
    if existing or not inter or not shown or resilient:
        return False
    u(2)  # reset_frame_context
    if u(8):
        return False
    u(12)  # references and their sign biases
    if not any(u() for _ in range(3)):
        u(32)  # frame size
    if u():
        u(32)  # render size
    u()  # allow_high_precision_mv
    if not u():
        u(2)  # interpolation filter
    return not u()  # refresh_frame_context


def _mpeg4_disposable(data: bytes) -> bool:
    """One B-VOP and nothing else (AVI packs two into one packet)."""
    start = data.find(b"\0\0\1\xb6")
    return start >= 0 and data[start + 4] >> 6 == 2 and data.find(b"\0\0\1\xb6", start + 4) < 0


def _mpeg2_disposable(data: bytes) -> bool:
    """Only B-pictures: a frame, or two fields."""
    start, found = data.find(b"\0\0\1\0"), False
    while start >= 0:
        if data[start + 5] >> 3 & 7 != 3:
            return False
        start, found = data.find(b"\0\0\1\0", start + 4), True
    return found


_STATELESS: dict[str, _Read] = {
    "h264": _h264_disposable,
    "vp9": _vp9_disposable,
    "mpeg4": _mpeg4_disposable,
    "mpeg1video": _mpeg2_disposable,
    "mpeg2video": _mpeg2_disposable,
}


class _Av1:
    """A temporal unit with one frame that refreshes nothing. Streams with a decoder model or frame ids are not examined."""

    _SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6

    def __init__(self) -> None:
        self._sequence: tuple[int, int, int] | None = None

    def disposable(self, data: bytes) -> bool:
        try:
            return self._disposable(data)
        except IndexError:
            return False

    def _disposable(self, data: bytes) -> bool:
        frames = []
        position = 0
        while position < len(data):
            header = data[position]
            kind = header >> 3 & 15
            position += 2 if header & 4 else 1
            size, shift = len(data) - position, 0
            if header & 2:
                size = 0
                while True:
                    byte = data[position]
                    size, shift, position = size | (byte & 127) << shift, shift + 7, position + 1
                    if byte < 128:
                        break
            payload = data[position : position + size]
            position += size
            if kind == self._SEQUENCE:
                self._sequence = _av1_sequence(payload)
            elif kind in (self._FRAME_HEADER, self._FRAME):
                frames.append(payload)
        return len(frames) == 1 and self._sequence is not None and _av1_refreshes_nothing(frames[0], *self._sequence)


def _av1_sequence(payload: bytes) -> tuple[int, int, int] | None:
    """(seq_force_screen_content_tools, seq_force_integer_mv, order hint bits); None if more would have to be read."""
    u = _Bits(payload)
    u(3)
    if u(2):
        return None  # still pictures
    if u():
        return None  # timing info
    display_delay = u()
    for _ in range(u(5) + 1):
        u(12)
        if u(5) > 7:
            u()
        if display_delay and u():
            u(4)
    width, height = u(4) + 1, u(4) + 1
    u(width)
    u(height)
    if u():
        return None  # frame ids
    u(3)
    u(4)
    order_hints = u()
    if order_hints:
        u(2)
    tools = 2 if u() else u()
    integer = (2 if u() else u()) if tools else 2
    return tools, integer, u(3) + 1 if order_hints else 0


def _av1_refreshes_nothing(payload: bytes, tools: int, integer: int, hint_bits: int) -> bool:
    u = _Bits(payload)
    if u():
        return False  # shows an existing frame
    kind, shown = u(2), u()
    if kind != 1 or not shown:
        return False
    resilient = u()
    u()
    if (u() if tools == 2 else tools) and integer == 2:
        u()
    u()
    u(hint_bits)
    if not resilient:
        u(3)
    return u(8) == 0
