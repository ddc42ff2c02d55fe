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
        """The signal since the frame that took before, up to and with `tick`; None where any of it may be missing.

        A tick in whose time no picture was shown has no signal. It cannot be told from one that was lost, so a tick that is
        missing means that nothing is known.
        """
        since, self._taken = self._taken, tick
        ticks = sorted(t for t in self._signals if t <= tick)
        signals = [self._signals.pop(t) for t in ticks]
        if since is None or ticks != list(range(since + 1, tick + 1)):
            return None
        if len({signal.change.shape for signal in signals}) > 1:
            return None
        return reduce(merge_signals, signals)
