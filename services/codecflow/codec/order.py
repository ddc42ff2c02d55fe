"""Presentation order of pictures, from their headers alone: nothing is decoded.

Sources: ITU-T H.264 7.3.2.2, 7.3.3, 8.2.1; ITU-T H.265 7.3.2.3, 7.3.6, 8.3.1; ISO/IEC 13818-2 6.2.3; ISO/IEC 14496-2 6.2.5
(picture parameter sets, slice and picture headers, picture order count, types of pictures).
"""

from __future__ import annotations

from typing import Protocol

from .annexb import nal_type, recovery_point, split_annex_b
from .headers import Bits, H264Sequence, HeaderError, h264_sequence, hevc_sequence

Key = tuple[int, int]
"""Sort key that puts a track's pictures into presentation order: coded video sequence, position in it."""

_HEADER_BYTES = 64
"""Prefix of a slice that is long enough for everything up to its picture order count."""


class ShownOrder(Protocol):
    """Reads the pictures of one track, in decode order. `depth`: the maximum number of pictures of a sequence that come
    before one that is shown earlier; None while the track has not said so."""

    depth: int | None

    def key(self, data: bytes, pts: int | None) -> Key | None:
        """Key of the next picture; None when its headers cannot be read."""
        ...

    def lost(self) -> None:
        """Pictures are missing here. Those up to the next keyframe cannot be decoded; all are placed after the earlier
        ones."""
        ...


DEEPEST = {"h264": 16, "hevc": 16, "mpeg4": 1, "mpeg2video": 1, "mpeg1video": 1}
"""Maximum number of pictures that may come before one that is shown earlier, per codec, if the track does not say."""


def shown_order(codec: str, depth: int, far: int) -> ShownOrder:
    """The order of a track of `codec`. `depth`: as found by FFmpeg when it probed the track. `far`: pts differences, in
    units of the track, too large for reordering."""
    if codec == "h264":
        return _H264Order()
    if codec == "hevc":
        return _HevcOrder()
    if codec == "mpeg4":
        return _TypeOrder(b"\0\0\1\xb6", 4, 6, 2)
    if codec in ("mpeg2video", "mpeg1video"):
        return _TypeOrder(b"\0\0\1\0", 5, 3, 3)
    return _StampOrder(depth, far) if depth else _DecodeOrder()


class _DecodeOrder:
    """Codecs whose presentation order is their decode order."""

    depth: int | None = 0

    def __init__(self) -> None:
        self._next = 0

    def key(self, data: bytes, pts: int | None) -> Key:
        self._next += 1
        return 0, self._next

    def lost(self) -> None:
        pass


class _StampOrder:
    """Codecs that reorder and whose headers are not read here (VC-1, RealVideo, ...): the container's times decide."""

    def __init__(self, depth: int, far: int) -> None:
        self.depth: int | None = depth
        self._far = far
        self._newest = (0, 0)

    def key(self, data: bytes, pts: int | None) -> Key:
        sequence, newest = self._newest
        if pts is None:
            pts = newest + 1
        elif abs(pts - newest) > self._far:
            sequence += 1
            newest = pts
        self._newest = (sequence, max(newest, pts))
        return sequence, pts

    def lost(self) -> None:
        self._newest = (self._newest[0] + 1, self._newest[1])


class _TypeOrder:
    """MPEG-1, 2 and 4: B-pictures are shown immediately, all others when the next of their kind comes."""

    def __init__(self, start: bytes, at: int, bit: int, b_type: int) -> None:
        self.depth: int | None = None
        self._start, self._at, self._bit, self._b_type = start, at, bit, b_type
        self._references, self._next = 0, 0

    def key(self, data: bytes, pts: int | None) -> Key | None:
        found = data.find(self._start)
        if found < 0 or found + self._at >= len(data):
            return None
        self._next += 1
        kind = data[found + self._at] >> self._bit & (3 if self._bit == 6 else 7)
        if kind == self._b_type:
            self.depth = 1
            return self._references, self._next
        self._references += 1
        return self._references, 1 << 62

    def lost(self) -> None:
        self._references += 1


class _OrderCount:
    """Picture order counts reconstructed from their least significant bits (H.264 8.2.1.1, H.265 8.3.1)."""

    def __init__(self) -> None:
        self.sequence = 0
        self._before = self._highest = 0

    def restart(self) -> None:
        self.sequence += 1
        self._before = self._highest = 0

    def key(self, low: int, bits: int, *, reference: bool, random_access: bool) -> Key:
        """Key of the next picture. A random access picture is shown after all pictures decoded before it; if its count says
        otherwise, counting restarted at a picture that was lost."""
        value = self._value(low, bits, reference)
        if random_access and value < self._highest:
            self.restart()
            value = self._value(low, bits, reference)
        self._highest = max(self._highest, value)
        return self.sequence, value

    def _value(self, low: int, bits: int, reference: bool) -> int:
        half, before_low = 1 << bits >> 1, self._before & ((1 << bits) - 1)
        value = self._before - before_low + low
        if low < before_low and before_low - low >= half:
            value += 2 * half
        elif low > before_low and low - before_low > half:
            value -= 2 * half
        if reference:
            self._before = value
        return value


class _H264Order:
    def __init__(self) -> None:
        self.depth: int | None = None
        self._sequences: dict[int, H264Sequence] = {}
        self._pictures: dict[int, int] = {}
        self._count = _OrderCount()
        self._number = 0  # frame number of the newest reference picture
        self._decoded = 0

    def key(self, data: bytes, pts: int | None) -> Key | None:
        try:
            recovers = False
            for unit in split_annex_b(data):
                kind = nal_type(unit, "h264")
                if kind == 6:
                    recovers = recovers or bool(recovery_point(unit))
                elif kind == 7:
                    name, sequence = h264_sequence(unit)
                    self._sequences[name] = sequence
                elif kind == 8:
                    bits = Bits(unit[:_HEADER_BYTES], 1)
                    name = bits.ue()
                    self._pictures[name] = bits.ue()
                elif kind in (1, 2, 5):
                    return self._slice(unit, kind == 5, recovers)
        except HeaderError:
            pass
        return None

    def lost(self) -> None:
        self._count.restart()

    def _slice(self, unit: bytes, idr: bool, recovers: bool) -> Key:
        bits = Bits(unit[:_HEADER_BYTES], 1)
        bits.ue()
        bits.ue()
        sequence = self._sequences.get(self._pictures.get(bits.ue(), -1))
        if sequence is None:
            raise HeaderError("no parameter set")
        self.depth = sequence.depth
        self._decoded += 1
        if idr:
            self._count.restart()
        if not sequence.count_bits:
            return self._count.sequence, self._decoded
        if sequence.separate_colours:
            bits.u(2)
        reference, number = bool(unit[0] & 0x60), bits.u(sequence.frame_num_bits)
        following = (self._number + 1) & ((1 << sequence.frame_num_bits) - 1)
        if not (idr or sequence.gaps_allowed or number in (self._number, following)):
            self._count.restart()  # reference pictures are missing (7.4.3), perhaps one at which counting restarted
        if idr or reference:
            self._number = number
        if not sequence.frames_only and bits.u(1):
            bits.u(1)
        if idr:
            bits.ue()
        low = bits.u(sequence.count_bits)
        return self._count.key(low, sequence.count_bits, reference=reference, random_access=recovers and reference)


class _HevcOrder:
    def __init__(self) -> None:
        self.depth: int | None = None
        self._sequences: dict[int, tuple[int, bool, int]] = {}  # count bits, separate colours, depth
        self._pictures: dict[int, tuple[int, bool, int]] = {}  # sequence, output flag present, extra bits
        self._count = _OrderCount()
        self._fresh = True

    def key(self, data: bytes, pts: int | None) -> Key | None:
        try:
            for unit in split_annex_b(data):
                kind = nal_type(unit, "hevc")
                if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:
                    continue  # of another layer
                if kind == 33:
                    name, *sequence = hevc_sequence(unit)
                    self._sequences[name] = (sequence[0], bool(sequence[1]), sequence[2])
                elif kind == 34:
                    bits = Bits(unit[:_HEADER_BYTES], 2)
                    name, owner, _ = bits.ue(), bits.ue(), bits.u(1)
                    self._pictures[name] = (owner, bool(bits.u(1)), bits.u(3))
                elif kind in (36, 37):
                    self._fresh = True
                elif kind < 32:
                    return self._slice(unit, kind)
        except HeaderError:
            pass
        return None

    def lost(self) -> None:
        self._count.restart()

    def _slice(self, unit: bytes, kind: int) -> Key:
        bits = Bits(unit[:_HEADER_BYTES], 2)
        bits.u(1)
        if 16 <= kind <= 23:
            bits.u(1)
        owner, output_flag, extra = self._pictures.get(bits.ue(), (-1, False, 0))
        if owner not in self._sequences:
            raise HeaderError("no parameter set")
        count_bits, separate, self.depth = self._sequences[owner]
        bits.u(extra)
        bits.ue()
        bits.u(output_flag + 2 * separate)
        idr = kind in (19, 20)
        low = 0 if idr else bits.u(count_bits)
        if idr or 16 <= kind <= 18 or (self._fresh and kind == 21):
            self._count.restart()
        self._fresh = False
        # Leading pictures and sub-layer non-reference pictures are no base for the next one's count.
        reference = not (unit[1] & 7) - 1 and not 6 <= kind <= 9 and (kind > 15 or kind % 2 == 1)
        return self._count.key(low, count_bits, reference=reference, random_access=16 <= kind <= 23)
