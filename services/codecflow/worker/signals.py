"""The codec signal between two sampled frames, merged from the signal pictures shown since the first of them."""

from __future__ import annotations

from functools import reduce

from codecflow.codec.signal import merge_signals
from codecflow.messages import Signal


class SignalTrack:
    """The signals of one epoch, by tick, until a sampled frame takes them.

    They come in decode order, ticks in presentation order: a later tick may come first.
    """

    def __init__(self) -> None:
        self._signals: dict[int, Signal] = {}
        self._taken: int | None = None

    def add(self, signal: Signal) -> None:
        if self._taken is None or signal.tick > self._taken:
            self._signals[signal.tick] = signal

    def take(self, tick: int) -> Signal | None:
        """The signal since the frame that took before, up to and with `tick`; None where any of it may be missing: each
        signal must be measured against the one before it, and the first against that frame."""
        since, self._taken = self._taken, tick
        signals = [self._signals.pop(t) for t in sorted(t for t in self._signals if t <= tick)]
        if since is None or not signals or [s.since for s in signals] != [since, *(s.tick for s in signals[:-1])]:
            return None
        if signals[-1].tick != tick or len({signal.change.shape for signal in signals}) > 1:
            return None
        return reduce(merge_signals, signals)
