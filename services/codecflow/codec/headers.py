"""Parameter sets of H.264 and HEVC, the parts that are needed without a decoder.

Sources: ITU-T H.264 7.3.2.1, 9.1 and annex E; ITU-T H.265 7.3.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


class HeaderError(ValueError):
    """A header that ends too early or refers to a missing parameter set."""


class Bits:
    """Reads a NAL unit's payload bit by bit, from its byte `start` on (H.264 7.2, 9.1). `left`: unread bits."""

    def __init__(self, unit: bytes, start: int) -> None:
        payload = unit[start:].replace(b"\0\0\3", b"\0\0")
        self._bits, self.left = int.from_bytes(payload), 8 * len(payload)

    def u(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise HeaderError("header ends too early")
        return self._bits >> self.left & ((1 << count) - 1)

    def ue(self) -> int:
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 32:
                raise HeaderError("no Exp-Golomb code")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


@dataclass(frozen=True, slots=True)
class H264Sequence:
    """Contents of a sequence parameter set. `count_bits`: of a picture order count; 0: pictures are shown in decode order.
    `depth`: the maximum number of pictures that precede, in decode order, one that is shown before them (a frame may be
    two); None if the sequence does not say."""

    frame_num_bits: int
    gaps_allowed: bool
    count_bits: int
    separate_colours: bool
    frames_only: bool
    depth: int | None


@lru_cache(maxsize=64)
def h264_sequence(unit: bytes) -> tuple[int, H264Sequence]:
    """(id, contents) of a sequence parameter set, a NAL unit. Cached: cameras repeat it. Raises HeaderError."""
    bits = Bits(unit, 1)
    profile, constraints = bits.u(8), bits.u(8)
    bits.u(8)
    name = bits.ue()
    separate = False
    if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
        chroma = bits.ue()
        separate = chroma == 3 and bool(bits.u(1))
        bits.ue()
        bits.ue()
        bits.u(1)
        if bits.u(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.u(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    frame_num_bits = bits.ue() + 4
    kind = bits.ue()
    count_bits = 0
    if kind == 0:
        count_bits = bits.ue() + 4
    elif kind == 1:
        bits.u(1)
        bits.se()
        bits.se()
        for _ in range(bits.ue()):
            bits.se()
    bits.ue()
    gaps_allowed = bool(bits.u(1))
    bits.ue()
    bits.ue()
    frames_only = bool(bits.u(1))
    # Baseline has no B-pictures, and a sequence of only intra pictures has nothing to reorder.
    intra_only = profile == 44 or (profile in (100, 110, 122, 244) and constraints & 0x10)
    depth = 0 if kind == 2 or profile == 66 or intra_only else None
    if depth is None:
        try:
            depth = _h264_depth(bits, frames_only)
        except HeaderError:
            depth = None
    return name, H264Sequence(frame_num_bits, gaps_allowed, count_bits, separate, frames_only, depth)


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last, after = 8, 8
    for _ in range(size):
        if after:
            after = (last + bits.se()) % 256
        last = after or last


def _h264_depth(bits: Bits, frames_only: bool) -> int | None:
    """max_num_reorder_frames, in pictures: a frame may be two fields; None if the sequence does not say."""
    bits.u(1 if frames_only else 2)
    for _ in range(4 * bits.u(1)):
        bits.ue()
    if not bits.u(1):
        return None
    if bits.u(1) and bits.u(8) == 255:
        bits.u(32)
    if bits.u(1):
        bits.u(1)
    if bits.u(1):
        bits.u(4)
        if bits.u(1):
            bits.u(24)
    if bits.u(1):
        bits.ue()
        bits.ue()
    if bits.u(1):
        bits.u(65)
    buffers = [bits.u(1) and _skip_hrd(bits), bits.u(1) and _skip_hrd(bits)]
    if any(buffers):
        bits.u(1)
    bits.u(1)
    if not bits.u(1):
        return None
    bits.u(1)
    for _ in range(4):
        bits.ue()
    return bits.ue() if frames_only else 2 * bits.ue()


def _skip_hrd(bits: Bits) -> bool:
    count = bits.ue() + 1
    bits.u(8)
    for _ in range(count):
        bits.ue()
        bits.ue()
        bits.u(1)
    bits.u(20)
    return True


def hevc_sequence(unit: bytes) -> tuple[int, int, int, int]:
    """(id, bits of a picture order count, separate colours, depth) of a sequence parameter set, a NAL unit. Raises
    HeaderError."""
    bits = Bits(unit, 2)
    bits.u(4)
    layers = bits.u(3)
    bits.u(1)
    bits.u(96)
    present = [(bits.u(1), bits.u(1)) for _ in range(layers)]
    if layers:
        bits.u(2 * (8 - layers))
    for profile, level in present:
        bits.u(88 * profile + 8 * level)
    name = bits.ue()
    separate = int(bits.ue() == 3 and bits.u(1))
    bits.ue()
    bits.ue()
    if bits.u(1):
        for _ in range(4):
            bits.ue()
    bits.ue()
    bits.ue()
    count_bits = bits.ue() + 4
    depth = 0
    for _ in range(layers + 1 if bits.u(1) else 1):
        bits.ue()
        depth = bits.ue()
        bits.ue()
    return name, count_bits, separate, depth


def sei_payload(messages: bytes, wanted: int) -> bytes | None:
    """The payload of the first SEI message of type `wanted` (H.264, 7.3.2.3.1)."""
    position = 0
    while position + 2 <= len(messages):
        numbers = []
        for _ in range(2):  # type, then size: each the sum of bytes up to the first that is not 255
            number = 0
            while position < len(messages) and messages[position] == 0xFF:
                number, position = number + 0xFF, position + 1
            if position >= len(messages):
                return None
            numbers.append(number + messages[position])
            position += 1
        kind, size = numbers
        if kind == wanted:
            return messages[position : position + size]
        position += size
    return None
