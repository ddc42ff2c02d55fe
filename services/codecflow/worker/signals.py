"""The codec signal between two sampled frames, merged from the signal pictures shown since the first of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from codecflow.codec.signal import merge_signals
from codecflow.messages import Signal


class SignalTrack:
    """The signals of one epoch, by tick, until a sampled frame takes them.

    They come in decode order, ticks in presentation order: a later tick may come first. `mismatches`: pictures whose samples
    are not those that their signal was measured on.
    """

    def __init__(self) -> None:
        self.mismatches = 0
        self._signals: dict[int, Signal] = {}
        self._taken: int | None = None

    def add(self, signal: Signal) -> None:
        if self._taken is None or signal.tick > self._taken:
            self._signals[signal.tick] = signal

    def take(self, tick: int, matches: Callable[[Signal], bool]) -> Signal | None:
        """The signal since the frame that took before, up to and with `tick`; None where any of it may be missing: each
        signal must be measured against the one before it, and the first against that frame.

        `matches`: whether the frame's samples are those that its own signal was measured on. If not, neither this signal nor
        the next one says anything of them.
        """
        since, self._taken = self._taken, tick
        own = self._signals.get(tick)
        if own is not None and not matches(own):
            self.mismatches += 1
            since = self._taken = None
        signals = [self._signals.pop(t) for t in sorted(t for t in self._signals if t <= tick)]
        if since is None or not signals or [s.since for s in signals] != [since, *(s.tick for s in signals[:-1])]:
            return None
        if signals[-1].tick != tick or len({signal.change.shape for signal in signals}) > 1:
            return None
        return reduce(merge_signals, signals)
