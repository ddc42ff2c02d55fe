"""Sampled frames from published pictures: which pictures they are, their codec signal, and their samples on demand. Used by
the worker and by every tool that stands in for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from codecflow.errors import CodecFlowError
from codecflow.messages import CodedPicture, PictureMetadata, Signal

from .lazy import MAX_BYTES, LazyDecoder, LazyPicture
from .pictures import matches
from .signal import ticks_per_sample

_MAX_SIGNALS = 512
"""Maximum number of signals that wait for a sampled frame: beyond that nothing is being sampled."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled frame. `slot`: its position on the sampling grid. `signals`: those of every signal picture since the
    previous sampled frame, in tick order; the last is its own. `picture`: valid until the next picture is pushed."""

    slot: int
    signals: tuple[Signal, ...]
    picture: LazyPicture

    def luma(self, invalidate: Callable[[], None]) -> npt.NDArray[np.uint8]:
        """(height, width) uint8 of the coded picture; `invalidate` is called first if they are not the samples on which its
        signal was measured. Raises PictureLostError when it cannot be decoded."""
        shown = self.picture.decode()
        if shown is None or (shown.width, shown.height) != self.picture.coded_size:
            raise PictureLostError
        if not matches(shown.frame, self.signals[-1]):
            invalidate()
        return shown.luma()


class PictureLostError(CodecFlowError):
    """A sampled picture, or one that it refers to, is damaged: the frame does not exist."""


class SampleTrack:
    """The sampled frames of one epoch, `fps` per second: the first signal picture of each slot. Push its pictures, with
    their metadata, in decode order. `vectors`, `nvdec`, `max_bytes`: as LazyDecoder's."""

    def __init__(
        self, fps: Fraction, stream: str, *, vectors: bool = False, nvdec: bool = False, max_bytes: int = MAX_BYTES
    ) -> None:
        self.decoder = LazyDecoder(max_bytes, vectors=vectors, nvdec=nvdec)
        self._fps, self._stream = fps, stream
        self._signals: dict[int, Signal] = {}
        self._ticks: dict[int, int] = {}  # by seq, of sampled pictures in progress
        self._tick = -1
        self._rate: tuple[Fraction, int] | None = None

    def push(self, picture: CodedPicture | None, metadata: PictureMetadata | None) -> list[Sample]:
        """The sampled frames whose turn has come, in presentation order. One of the two may be lost.

        Raises ConfigError when the stream's signal cannot serve the rate, and SourceError for an unknown codec.
        """
        sampled = False
        if metadata is not None and (signal := metadata.signal) is not None:
            per_slot = self._ticks_per_slot(signal.interval)
            if signal.tick > self._tick:
                self._signals[signal.tick] = signal
                # The first of its slot: a camera may not send a picture for each tick.
                sampled = signal.previous is None or signal.previous // per_slot < signal.tick // per_slot
                while len(self._signals) > _MAX_SIGNALS:
                    del self._signals[min(self._signals)]
            if sampled and picture is not None:
                self._ticks[picture.seq] = signal.tick
        if picture is None:
            return []
        return self._samples(self.decoder.push(picture, sampled))

    def flush(self) -> list[Sample]:
        """The sampled frames that still wait, at the end of the epoch or before a gap in it."""
        return self._samples(self.decoder.flush())

    def _samples(self, pictures: list[LazyPicture]) -> list[Sample]:
        samples = []
        for picture in pictures:
            tick = self._ticks.pop(picture.picture.seq, -1)
            if tick <= self._tick or tick not in self._signals:
                continue  # its decoding time is wrong: a later frame came before it
            self._tick = tick
            ticks = sorted(one for one in self._signals if one <= tick)
            signals = tuple(self._signals.pop(one) for one in ticks)
            samples.append(Sample(tick // self._ticks_per_slot(signals[-1].interval), signals, picture))
        if self._tick >= 0:
            self._ticks = {seq: tick for seq, tick in self._ticks.items() if tick > self._tick}
        return samples

    def _ticks_per_slot(self, interval: Fraction) -> int:
        if self._rate is None or self._rate[0] != interval:
            self._rate = interval, ticks_per_sample(self._fps, interval, self._stream)
        return self._rate[1]
