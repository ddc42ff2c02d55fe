"""codecflow.masks: which tokens of each new frame of a window were kept, for display."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from ._wire import REFUSALS, SCHEMA_VERSION, Version, load_members, refused, stream_of
from .limits import ClockMs, GridSide, Name, Natural, Seconds, Seq, Side

MAX_MASK_FRAMES = 1024
"""Frames of one record. A window with more frames, or with so many tokens that their masks are large, takes several
records."""

MAX_MASK_TEXT = 43_692
"""Characters of a mask of the largest grid, 512 x 512 tokens, in base64."""

MASK_BYTES = 1 << 19
"""Size at which a window's next frames start another record: well below Kafka's default limit."""

_FRAME_BYTES = 128
"""Size of a frame's document, without its mask."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameMask:  # noqa: PLW1641  # equal arrays have no hash
    """One sampled frame: which tokens were encoded.

    `seq`: its coded picture in the epoch. `time_s`: presentation time in seconds since the start of the epoch. `size`:
    (width, height) of the shown picture, which the grid divides evenly. `keep`: (rows, columns) bool. `anchor`: all of it is
    kept, as a new start.
    """

    seq: int
    time_s: float
    size: tuple[int, int]
    keep: npt.NDArray[np.bool_]
    anchor: bool = False

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FrameMask)
            and (self.seq, self.time_s, self.size, self.anchor) == (other.seq, other.time_s, other.size, other.anchor)
            and np.array_equal(self.keep, other.keep)
        )


@dataclass(frozen=True, slots=True)
class Decoding:
    """Coded pictures that came since the previous window, and pictures decoded meanwhile, repeated ones included."""

    published: Natural
    decoded: Natural


_NONE = Decoding(0, 0)


@dataclass(frozen=True, slots=True)
class WindowMasks:
    """The keep masks of the frames in `window` that no earlier window handed out, oldest first.

    A window may come in several records, each with some of its frames; `pictures` is in the first of them.
    `captured_at_ms`: wall clock of the window's newest frame's capture. `policy`: the keep policy.
    """

    stream: str
    epoch: int
    window: int
    captured_at_ms: int
    policy: str
    frames: tuple[FrameMask, ...]
    pictures: Decoding = _NONE


class _Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    seq: Seq
    time_s: Seconds
    size: tuple[Side, Side]
    grid: tuple[GridSide, GridSide]
    keep: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]*={0,2}\Z", max_length=MAX_MASK_TEXT)]
    anchor: bool = False


class _Masks(msgspec.Struct, frozen=True):
    v: Version
    epoch: ClockMs
    window: Natural
    captured_at_ms: ClockMs
    policy: Name
    frames: Annotated[list[_Frame], msgspec.Meta(max_length=MAX_MASK_FRAMES)]
    pictures: Decoding


_encode = msgspec.json.Encoder().encode


def encode_masks(masks: WindowMasks) -> list[tuple[bytes, bytes]]:
    """(key, value) of each record of the window: one, unless it has very many frames or tokens."""
    records: list[list[_Frame]] = [[]]
    size = 0
    for frame in masks.frames:
        text = binascii.b2a_base64(np.packbits(frame.keep).tobytes(), newline=False).decode()
        rows, columns = frame.keep.shape
        if len(records[-1]) == MAX_MASK_FRAMES or (records[-1] and size + len(text) + _FRAME_BYTES > MASK_BYTES):
            records.append([])
            size = 0
        records[-1].append(_Frame(frame.seq, frame.time_s, frame.size, (rows, columns), text, frame.anchor))
        size += len(text) + _FRAME_BYTES
    key = masks.stream.encode()
    return [
        (
            key,
            _encode(
                _Masks(
                    SCHEMA_VERSION,
                    masks.epoch,
                    masks.window,
                    masks.captured_at_ms,
                    masks.policy,
                    frames,
                    _NONE if index else masks.pictures,
                )
            ),
        )
        for index, frames in enumerate(records)
    ]


def decode_masks(key: bytes | None, value: bytes | None) -> WindowMasks:
    """The masks in a record. Raises MessageError on anything that violates this contract."""
    what = "masks"
    stream = stream_of(key, what)
    members: dict[str, Any] = load_members(value, what)
    try:
        one = msgspec.convert(members, _Masks)
        frames = tuple(_mask(frame) for frame in one.frames)
    except (*REFUSALS, ValueError) as error:
        raise refused(value, what, error) from error
    return WindowMasks(stream, one.epoch, one.window, one.captured_at_ms, one.policy, frames, one.pictures)


def _mask(frame: _Frame) -> FrameMask:
    rows, columns = frame.grid
    packed = np.frombuffer(binascii.a2b_base64(frame.keep.encode(), strict_mode=True), np.uint8)
    if len(packed) != -(-rows * columns // 8):
        raise ValueError(f"{rows}x{columns} tokens take {-(-rows * columns // 8)} bytes, not {len(packed)}")
    keep = np.unpackbits(packed, count=rows * columns).astype(bool).reshape(rows, columns)
    return FrameMask(frame.seq, frame.time_s, frame.size, keep, frame.anchor)
