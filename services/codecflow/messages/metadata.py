"""codecflow.metadata: what the codec already knows about each coded picture, one JSON document a picture.

Documents of an epoch come in decode order, as its packets do, so both topics are read as two ordered sequences. The last
document of an epoch that ended in good order says so (`EndOfEpoch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from codecflow.errors import MessageError

from ._wire import dump, field, load, stream_of
from .grids import Grid, decode_blocks, encode_blocks

BLOCK = 16
"""Side of a block, in luma samples of the coded picture."""

NO_BOUND = 255
"""Value of `change` that bounds nothing: the block may have changed by any amount."""


@dataclass(frozen=True, slots=True)
class Signal:
    """The codec signal of one signal picture: what happened since the signal picture shown before it.

    `tick` is the picture's place on the fixed presentation grid: it is the first picture shown at or after
    tick * interval seconds from the start of the epoch.

    `change`: (rows, columns) uint8, an upper bound of the block's mean absolute luma difference to the signal picture
    before, in eighths of a grey level; NO_BOUND is no bound. `motion`: (rows, columns) uint8, the largest vector over the
    block in any picture shown since then, in quarter pixels; None where the codec exports no vectors. `intra`: (rows,
    columns) uint8 of 0 and 1, blocks that some inter picture among them has no vector for; there `motion` is 255. None as
    for motion.

    On the wire change and motion keep to the levels of grids.py, rounded up.
    """

    tick: int
    interval: Fraction
    change: Grid
    motion: Grid | None
    intra: Grid | None

    @property
    def rows(self) -> int:
        return int(self.change.shape[0])

    @property
    def columns(self) -> int:
        return int(self.change.shape[1])


@dataclass(frozen=True, slots=True)
class PictureMetadata:
    """What is known of one coded picture beside its bytes.

    `start_pts`: pts of the first picture shown in the epoch; (pts - start_pts) * time_base is the presentation time in
    seconds that windows are laid on. `picture_type`: I, P, B, or ? where the decoder gave no picture. `size`: bytes.
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
    """The producer closed the stream in good order after `pictures` coded pictures."""

    stream: str
    epoch: int
    pictures: int


def encode_metadata(message: PictureMetadata | EndOfEpoch) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    key = message.stream.encode()
    if isinstance(message, EndOfEpoch):
        return key, dump({"epoch": message.epoch, "end": message.pictures})
    document: dict[str, object] = {
        "epoch": message.epoch,
        "seq": message.seq,
        "pts": message.pts,
        "start": message.start_pts,
        "tb": [message.time_base.numerator, message.time_base.denominator],
        "codec": message.codec,
        "type": message.picture_type,
        "size": message.size,
    }
    if message.signal is not None:
        document["signal"] = _signal_document(message.signal)
    return key, dump(document)


def decode_metadata(key: bytes | None, value: bytes | None) -> PictureMetadata | EndOfEpoch:
    """The document in a record. Raises MessageError on anything that is not of this contract."""
    what = "metadata"
    stream = stream_of(key, what)
    document = load(value, what)
    epoch = field(document, "epoch", int, what)
    if "end" in document:
        return EndOfEpoch(stream, epoch, field(document, "end", int, what))
    signal = document.get("signal")
    return PictureMetadata(
        stream=stream,
        epoch=epoch,
        seq=field(document, "seq", int, what),
        pts=field(document, "pts", int, what),
        start_pts=field(document, "start", int, what),
        time_base=_fraction(field(document, "tb", list, what)),
        codec=field(document, "codec", str, what),
        picture_type=field(document, "type", str, what),
        size=field(document, "size", int, what),
        signal=None if signal is None else _signal(field(document, "signal", dict, what)),
    )


def _signal_document(signal: Signal) -> dict[str, object]:
    document: dict[str, object] = {
        "tick": signal.tick,
        "every": [signal.interval.numerator, signal.interval.denominator],
        "grid": [signal.rows, signal.columns],
    }
    if signal.motion is not None:
        document["vectors"] = True
    document["blocks"] = encode_blocks(signal.change, signal.motion, signal.intra)
    return document


def _signal(document: dict[str, object]) -> Signal:
    what = "metadata: signal"
    shape = field(document, "grid", list, what)
    if len(shape) != 2 or not all(isinstance(n, int) and 0 < n <= 4096 for n in shape):
        raise MessageError(f"{what}: grid must be [rows, columns], not {shape}")
    rows, columns = shape

    change, motion, intra = decode_blocks(field(document, "blocks", str, what), rows, columns)
    vectors = "vectors" in document and field(document, "vectors", bool, what)
    return Signal(
        tick=field(document, "tick", int, what),
        interval=_fraction(field(document, "every", list, what)),
        change=change,
        motion=motion if vectors else None,
        intra=intra if vectors else None,
    )


def _fraction(pair: list[object]) -> Fraction:
    match pair:
        case [int(numerator), int(denominator)] if numerator > 0 and denominator > 0:
            return Fraction(numerator, denominator)
    raise MessageError(f"metadata: [numerator, denominator] of positive integers is expected, not {pair}")
