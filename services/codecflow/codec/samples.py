"""Sampled frames out of published pictures: which pictures they are, what the codec signal says of them, and their samples
on demand. What a worker and every tool that stands in for one take their frames from."""

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

_MOST_SIGNALS = 512
"""Signals that wait for a sampled frame at most: beyond that nothing is sampled at present."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled frame. `slot`: its place on the sampling grid. `signals`: those of every signal picture since the sampled
    frame before, in the order of ticks; the last is its own. `picture`: valid until the next picture is pushed."""

    slot: int
    signals: tuple[Signal, ...]
    picture: LazyPicture

    def luma(self, distrust: Callable[[], None]) -> npt.NDArray[np.uint8]:
        """(height, width) uint8 of the coded picture; `distrust` is called first where they are not the samples that its
        signal was measured on. Raises PictureLostError when it cannot be decoded."""
        shown = self.picture.decode()
        if shown is None or (shown.width, shown.height) != self.picture.coded_size:
            raise PictureLostError
        if not matches(shown.frame, self.signals[-1]):
            distrust()
        return shown.luma()


class PictureLostError(CodecFlowError):
    """A sampled picture, or one that it refers to, is damaged: there is no such frame."""


class SampleTrack:
    """The sampled frames of one epoch, `fps` a second: of each slot the first signal picture. Push its pictures, with their
    metadata, in decode order. `vectors`, `nvdec`, `max_bytes`: as LazyDecoder's."""

    def __init__(
        self, fps: Fraction, stream: str, *, vectors: bool = False, nvdec: bool = False, max_bytes: int = MAX_BYTES
    ) -> None:
        self.decoder = LazyDecoder(max_bytes, vectors=vectors, nvdec=nvdec)
        self._fps, self._stream = fps, stream
        self._signals: dict[int, Signal] = {}
        self._ticks: dict[int, int] = {}  # by seq, of sampled pictures on their way
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
                # The first of its slot: a camera need not send a picture for each tick.
                sampled = signal.previous is None or signal.previous // per_slot < signal.tick // per_slot
                while len(self._signals) > _MOST_SIGNALS:
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
