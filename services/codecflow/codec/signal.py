"""The codec signal, from coded pictures alone: one metadata document per picture, grids on signal pictures."""

from __future__ import annotations

from fractions import Fraction

from av.video.frame import PictureType

from codecflow.errors import ConfigError, SourceError
from codecflow.messages import UNCHANGED, CodedPicture, PictureMetadata, Signal

from .allowance import Allowance
from .conditions import NoiseMeter, exposure_of
from .pictures import MAX_PIXELS, DecodedPicture, PictureDecoder, luma, luma_checksum
from .presentation import MAX_DELAY
from .tiles import Sums, block_bounds, cell_step, grid_shape, tile_areas, tile_sums
from .vectors import VECTOR_CODECS, VectorGrid

DEFAULT_INTERVAL = Fraction(1, 2)
"""Seconds of presentation time between signal pictures."""

REFERENCE_S = 8
"""Seconds of presentation time from one reference picture to the next: the default interval of anchors (keep/config.py)."""


class SignalExtractor:
    """The metadata of one epoch's pictures.

    Push the coded pictures in decode order. Each is returned once, in decode order, as soon as the decoder has shown it; a
    few pictures late if the codec reorders. Pictures found to be corrupt are not returned: their seq is in `take_lost()`,
    together with all that may refer to them, up to the next keyframe. `not_shown`: pictures that were returned but are never
    shown; others refer to them.

    Signal pictures carry motion and intra accumulated over every picture shown since the previous signal picture, and the
    change of each block against a fixed picture, the reference, so that noise does not add up from one signal to the next.
    If most blocks have changed by only a gain and an offset, the camera's exposure has changed: `change` is the remainder.
    The reference is the first keyframe among the signal pictures of every REFERENCE_S seconds; if none of them is a
    keyframe, the first signal picture after. A keyframe between two ticks takes the later one's place when it is the nearer
    one, or when a reference is due: so a worker that samples it has to decode only one picture.
    """

    def __init__(self, interval: Fraction = DEFAULT_INTERVAL, max_pixels: int = MAX_PIXELS) -> None:
        self.width, self.height = 0, 0
        self.not_shown = 0
        self._interval = interval
        self._decoder = PictureDecoder(vectors=True, max_pixels=max_pixels)
        self._pending: dict[int, tuple[CodedPicture, str | None, Signal | None]] = {}
        self._start_pts: int | None = None
        self._shown: CodedPicture | None = None
        self._previous: int | None = None  # tick of the newest signal picture
        self._reference: tuple[int, Sums] | None = None
        self._reference_period = -1
        self._vectors: VectorGrid | None = None
        self._allowance = Allowance()
        self._noise = NoiseMeter(float(interval))
        self._exposure = UNCHANGED  # of the newest signal picture, to the reference
        self._newly_lost: list[tuple[int, str]] = []
        self._sizes: dict[int, tuple[int, int]] = {}
        self._hidden: set[int] = set()
        self._newest = (
            -1,
            0,
        )  # seq and pts of the newest shown picture; the decoder returns no earlier one any more

    def push(self, picture: CodedPicture) -> list[PictureMetadata]:
        """Metadata of pictures now complete, in decode order. Raises SourceError for a picture that cannot be decoded
        here."""
        self._pending[picture.seq] = (picture, None, None)
        self._allowance.earn(len(picture.data))
        try:
            self._take(self._decoder.push(picture))
        except SourceError:
            del self._pending[picture.seq]
            raise
        return self._complete(picture.seq - MAX_DELAY)

    def flush(self) -> list[PictureMetadata]:
        """Metadata of the pictures still held back, at the end of the epoch."""
        self._take(self._decoder.flush())
        if self._start_pts is None and self._pending:
            self._start_pts = min(picture.pts for picture, _, _ in self._pending.values())
        return self._complete(max(self._pending, default=0))

    def take_lost(self) -> list[tuple[int, str]]:
        """(seq, reason) of pictures found to be corrupt, or to follow a corrupt one, since the last call."""
        lost, self._newly_lost = self._newly_lost, []
        return lost

    def take_size(self, seq: int) -> tuple[int, int] | None:
        """(width, height) of that picture's own frame, once; None if it gave no frame."""
        return self._sizes.pop(seq, None)

    def _take(self, decoded: list[DecodedPicture]) -> None:
        for one in decoded:
            if one.picture.seq not in self._pending:
                continue
            self._sizes[one.picture.seq] = (one.frame.width, one.frame.height)
            self._newest = max(self._newest, (one.picture.seq, one.picture.pts))
            if not one.shown:
                self._hidden.add(one.picture.seq)
            signal = self._show(one) if one.shown else None
            kind = PictureType(one.frame.pict_type).name[0]
            self._pending[one.picture.seq] = (one.picture, kind if kind in "IPB" else "P", signal)
        for seq, why in self._decoder.take_lost():
            if self._pending.pop(seq, None) is not None:
                self._sizes.pop(seq, None)
                self._newly_lost.append((seq, why))

    def _show(self, shown: DecodedPicture) -> Signal | None:
        """Processes one shown picture; returns its signal if it is a signal picture."""
        picture, frame = shown.picture, shown.frame
        shape = grid_shape(frame.height, frame.width)
        if (self.width, self.height) != (frame.width, frame.height):
            self.width, self.height = frame.width, frame.height
            self._reference, self._vectors = None, None
        if self._vectors is None and picture.codec in VECTOR_CODECS:
            self._vectors = VectorGrid(*shape)
        if self._vectors is not None:
            self._vectors.add(frame)
        if self._start_pts is None:
            self._start_pts = picture.pts
        before, self._shown = self._shown, picture
        if before is not None:
            self._allowance.pass_time(float((picture.pts - before.pts) * picture.time_base))
        tick = self._tick_of(picture, before)
        if self._previous is not None and tick <= self._previous:
            return None
        now = luma(frame)
        tiles = tile_sums(now)
        since, bounds, exposure = None, None, UNCHANGED
        if self._reference is not None:
            since, then = self._reference
            exposure = self._exposure = exposure_of(tiles, then, self._exposure)
            bounds = block_bounds(tiles, then, tile_areas(*now.shape), cell_step(*now.shape), exposure)
        motion, intra = (None, None) if self._vectors is None else self._vectors.grids()
        grids = self._allowance.spend(bounds, motion, intra, shape)
        # Same rule as for anchors (keep/keep_state.py): a keyframe serves its own period, another picture the previous one.
        period = self._period(tick) - (0 if picture.keyframe or self._reference is None else 1)
        renew = self._reference is None or period > self._reference_period
        signal = Signal(
            tick=tick,
            interval=self._interval,
            change=grids.change,
            motion=grids.motion,
            intra=grids.intra,
            since=since,
            luma_crc32=luma_checksum(now),
            previous=self._previous,
            reference=renew,
            exposure=exposure,
            noise=self._noise.add(tiles),
        )
        self._previous, self._vectors = tick, None
        if renew:
            self._reference, self._reference_period = (tick, tiles), period
            self._exposure = UNCHANGED
        return signal

    def _tick_of(self, picture: CodedPicture, before: CodedPicture | None) -> int:
        """The newest tick for which a picture shown after `before` is not too early."""
        assert self._start_pts is not None
        per_unit = picture.time_base / self._interval
        tick, rest = divmod((picture.pts - self._start_pts) * per_unit.numerator, per_unit.denominator)
        early = per_unit.denominator - rest
        if picture.keyframe and rest and before is not None and not before.keyframe:
            nearer = 2 * early <= per_unit.denominator
            if nearer or self._period(tick + 1) > self._reference_period:
                return tick + 1
        return tick

    def _period(self, tick: int) -> int:
        return int(tick * self._interval // REFERENCE_S)

    def _complete(self, overdue: int) -> list[PictureMetadata]:
        """Takes complete pictures from the head of the queue; also those without a frame, up to seq `overdue` and where
        later ones were shown."""
        ready: list[PictureMetadata] = []
        if self._start_pts is None:
            return ready
        for seq, (picture, kind, signal) in list(self._pending.items()):
            passed = seq < self._newest[0] and picture.pts < self._newest[1]
            if kind is None and seq > overdue and not passed:
                break
            del self._pending[seq]
            self.not_shown += kind is None or seq in self._hidden
            self._hidden.discard(seq)
            ready.append(
                PictureMetadata(
                    stream=picture.stream,
                    epoch=picture.epoch,
                    seq=seq,
                    pts=picture.pts,
                    start_pts=self._start_pts,
                    time_base=picture.time_base,
                    codec=picture.codec,
                    picture_type=kind or "?",
                    size=len(picture.data),
                    signal=signal,
                )
            )
        return ready


def ticks_per_sample(frames_per_second: Fraction, interval: Fraction, stream: str) -> int:
    """Signal ticks from one sampled frame to the next. Raises ConfigError when the stream's signal cannot serve the rate."""
    ticks = 1 / (frames_per_second * interval)
    if ticks.denominator != 1:
        raise ConfigError(
            f"stream {stream}: its signal comes every {float(interval):g} s and cannot serve {float(frames_per_second):g} "
            f"frames/s; use a rate whose period is a whole multiple, such as {float(1 / interval):g}, "
            "or another --signal-interval at the producer"
        )
    return int(ticks)
