"""codecflow.metadata: the codec signal and other data about each coded picture, one JSON document per picture.

Documents of an epoch are in decode order, like its packets, so both topics are read as two ordered sequences. The last
document of an epoch says that it ended regularly (`EndOfEpoch`), or that its camera was lost (`CameraLost`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from codecflow.errors import MessageError

from ._wire import REFUSALS, SCHEMA_VERSION, Version, check_length, refused, stream_of
from .grids import Grid, decode_blocks, encode_blocks
from .limits import CODE, MAX_GRID_SIDE, MAX_TIME_S, ClockMs, Codec, Count32, GridSide, Ratio, Seq, Stamp, fraction

BLOCK = 16
"""Side of a block, in luma samples of the coded picture."""

NO_BOUND = 255
"""Value of `change` without a bound: the block may have changed by any amount."""

MIN_INTERVAL, MAX_INTERVAL = Fraction(1, 1000), Fraction(60)
"""Seconds from one signal picture to the next."""

MAX_NOISE = 255
"""Maximum noise in eighths of a grey level: it must fit in a byte."""

Tick = Annotated[int, msgspec.Meta(ge=0, le=1000 * MAX_TIME_S)]


@dataclass(frozen=True, slots=True)
class Exposure:
    """How a picture's luma follows from that of another one when only the camera's exposure has changed: gain / 256 x luma +
    offset / 8."""

    gain: int
    offset: int

    GAIN_UNIT: ClassVar[int] = 256
    OFFSET_UNIT: ClassVar[int] = 8
    MIN_GAIN: ClassVar[int] = 128
    MAX_GAIN: ClassVar[int] = 512
    MAX_OFFSET: ClassVar[int] = 8 * 64

    def of(self, luma: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Luma, or means of it, converted to this exposure."""
        if self == UNCHANGED:
            return luma
        return luma * (self.gain / self.GAIN_UNIT) + self.offset / self.OFFSET_UNIT


UNCHANGED = Exposure(Exposure.GAIN_UNIT, 0)


@dataclass(frozen=True, slots=True)
class Signal:
    """The codec signal of one signal picture.

    `tick` is the picture's position on the fixed presentation grid: it is the first picture shown at or after tick *
    interval seconds from the start of the epoch, or a keyframe shown less than an interval before. `previous`: tick of the
    signal picture shown before it, None for the first. Ticks may be skipped if a camera sends fewer pictures than there are
    ticks.

    `change`: (rows, columns) uint8, in eighths of a grey level, an upper bound of |signed mean of the luma difference to a
    reference| over every cell that begins in the block: of 8x8 samples, at a multiple of 4; in pictures of 1280x720 samples
    or more of 16x16, at a multiple of 8. Samples beyond the picture count as no difference. NO_BOUND means no bound.
    `exposure`: the reference is converted to this exposure. `since`: tick of the signal picture that is the reference; None
    if there is none, and no bound. `reference`: from the next signal on, this picture is the reference.

    `noise`: one standard deviation by which means of 8x8 samples differ from picture to picture where nothing moves, in
    eighths of a grey level, measured over some seconds; 0 if unknown.

    `motion`: (rows, columns) uint8, the largest vector over the block in any picture shown since the previous signal
    picture, in quarter pixels; None if the codec exports no vectors or there was no room for them. `intra`: (rows, columns)
    uint8 of 0 and 1, blocks for which some inter picture among them has no vector; there `motion` is 255. None as for
    motion.

    `luma_crc32`: CRC-32 of the luma samples on which `change` was measured, row by row. A reader with other samples has no
    bound from this signal, nor from one measured against it. None: not stated.

    On the wire, values are rounded up to the levels of grids.py.
    """

    tick: int
    interval: Fraction
    change: Grid
    motion: Grid | None
    intra: Grid | None
    since: int | None = None
    luma_crc32: int | None = None
    previous: int | None = None
    reference: bool = False
    exposure: Exposure = UNCHANGED
    noise: int = 0

    @property
    def rows(self) -> int:
        return int(self.change.shape[0])

    @property
    def columns(self) -> int:
        return int(self.change.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory of the grids."""
        return sum(grid.nbytes for grid in (self.change, self.motion, self.intra) if grid is not None)


@dataclass(slots=True)  # not frozen, as CodedPicture
class PictureMetadata:
    """Data about one coded picture, without its bytes.

    `start_pts`: pts of the first picture shown in the epoch; (pts - start_pts) * time_base is the presentation time in
    seconds on which windows are based. `picture_type`: I, P, B, or ? if the decoder gave no picture. `size`: bytes.
    """

    stream: str
    epoch: int
    seq: int
    pts: int
    start_pts: int
    time_base: Fraction
    codec: str
    picture_type: str
    size: int
    signal: Signal | None = None

    @property
    def time_s(self) -> float:
        """Presentation time in seconds since the start of the epoch."""
        return float((self.pts - self.start_pts) * self.time_base)


@dataclass(frozen=True, slots=True)
class EndOfEpoch:
    """The producer closed the stream regularly after `pictures` coded pictures."""

    stream: str
    epoch: int
    pictures: int


@dataclass(frozen=True, slots=True)
class CameraLost:
    """The producer has lost the camera and tries to reconnect; pictures continue in a later epoch. `code`: the reason, a
    code of codecflow.errors.SourceError."""

    stream: str
    epoch: int
    code: str


class _Signal(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    tick: Tick
    every: Ratio
    grid: tuple[GridSide, GridSide]
    blocks: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_GRID_SIDE**2)]
    since: Tick | None = None
    luma: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] | None = None
    after: Tick | None = None
    reference: bool = False
    vectors: bool = False
    exposure: (
        tuple[
            Annotated[int, msgspec.Meta(ge=Exposure.MIN_GAIN, le=Exposure.MAX_GAIN)],
            Annotated[int, msgspec.Meta(ge=-Exposure.MAX_OFFSET, le=Exposure.MAX_OFFSET)],
        ]
        | None
    ) = None
    noise: Annotated[int, msgspec.Meta(ge=0, le=MAX_NOISE)] = 0


class _Picture(msgspec.Struct, frozen=True, omit_defaults=True):
    v: Version
    epoch: ClockMs
    seq: Seq
    pts: Stamp
    start: Stamp
    tb: Ratio
    codec: Codec
    type: Literal["I", "P", "B", "?"]
    size: Count32
    signal: _Signal | None = None


class _End(msgspec.Struct, frozen=True, gc=False):
    v: Version
    epoch: ClockMs
    end: Seq


class _Lost(msgspec.Struct, frozen=True, gc=False):
    v: Version
    epoch: ClockMs
    lost: Annotated[str, msgspec.Meta(pattern=CODE)]


class _HasEnd(msgspec.Struct):
    end: object = None
    lost: object = None


_decode_picture = msgspec.json.Decoder(_Picture).decode
_decode_end = msgspec.json.Decoder(_End).decode
_decode_lost = msgspec.json.Decoder(_Lost).decode
_decode_has_end = msgspec.json.Decoder(_HasEnd).decode
_encode = msgspec.json.Encoder().encode


def encode_metadata(message: PictureMetadata | EndOfEpoch | CameraLost) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    key = message.stream.encode()
    if isinstance(message, EndOfEpoch):
        return key, _encode(_End(SCHEMA_VERSION, message.epoch, message.pictures))
    if isinstance(message, CameraLost):
        return key, _encode(_Lost(SCHEMA_VERSION, message.epoch, message.code))
    base, signal = message.time_base, message.signal
    return key, _encode(
        _Picture(
            SCHEMA_VERSION,
            message.epoch,
            message.seq,
            message.pts,
            message.start_pts,
            (base.numerator, base.denominator),
            message.codec,  # type: ignore[arg-type]  # a reader checks it
            message.picture_type,  # type: ignore[arg-type]
            message.size,
            None if signal is None else _document(signal),
        )
    )


def decode_metadata(key: bytes | None, value: bytes | None) -> PictureMetadata | EndOfEpoch | CameraLost:
    """The document in a record. Raises MessageError on anything that violates this contract."""
    what = "metadata"
    stream = stream_of(key, what)
    check_length(value, what)
    try:
        one = _decode_picture(value or b"")
    except REFUSALS as error:
        return _end(stream, value or b"", error)
    if abs(one.pts - one.start) * one.tb[0] > MAX_TIME_S * one.tb[1]:
        raise MessageError(f"{what}: pts is more than {MAX_TIME_S} s away from start")
    return PictureMetadata(
        stream,
        one.epoch,
        one.seq,
        one.pts,
        one.start,
        fraction(*one.tb),
        one.codec,
        one.type,
        one.size,
        None if one.signal is None else _signal(one.signal),
    )


def _end(stream: str, value: bytes, error: Exception) -> EndOfEpoch | CameraLost:
    """The end of an epoch, regular or not, in a value that was refused as metadata of a picture with `error`."""
    what = "metadata"
    try:
        known = _decode_has_end(value)
        if known.end is not None:
            end = _decode_end(value)
            return EndOfEpoch(stream, end.epoch, end.end)
        if known.lost is not None:
            lost = _decode_lost(value)
            return CameraLost(stream, lost.epoch, lost.lost)
    except REFUSALS as other:
        raise refused(value, what, other) from other
    raise refused(value, what, error) from error


def _document(signal: Signal) -> _Signal:
    exposure = signal.exposure
    return _Signal(
        signal.tick,
        (signal.interval.numerator, signal.interval.denominator),
        (signal.rows, signal.columns),
        encode_blocks(signal.change, signal.motion, signal.intra),
        signal.since,
        signal.luma_crc32,
        None if signal.previous == _before(signal.tick) else signal.previous,
        signal.reference,
        signal.motion is not None,
        None if exposure == UNCHANGED else (exposure.gain, exposure.offset),
        signal.noise,
    )


def _before(tick: int) -> int | None:
    """Tick of the previous signal picture if none was skipped: the value omitted from `after`."""
    return tick - 1 if tick else None


def _signal(document: _Signal) -> Signal:
    what = "metadata: signal"
    interval = fraction(*document.every)
    if not MIN_INTERVAL <= interval <= MAX_INTERVAL:
        raise MessageError(
            f"{what}: every {float(interval):g} s; {float(MIN_INTERVAL):g} to {MAX_INTERVAL} s are allowed"
        )
    if document.since is not None and document.since >= document.tick:
        raise MessageError(f"{what}: since {document.since} is not before tick {document.tick}")
    if document.after is not None and document.after >= document.tick:
        raise MessageError(f"{what}: after {document.after} is not before tick {document.tick}")
    change, motion, intra = decode_blocks(document.blocks, *document.grid)
    vectors = document.vectors
    return Signal(
        document.tick,
        interval,
        change,
        motion if vectors else None,
        intra if vectors else None,
        document.since,
        document.luma,
        _before(document.tick) if document.after is None else document.after,
        document.reference,
        UNCHANGED if document.exposure is None else Exposure(*document.exposure),
        document.noise,
    )
