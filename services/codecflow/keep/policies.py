"""The keep policies by name, one class each.

A policy sees every codec signal of its stream, including those between sampled frames (`observe`), and decides each sampled
frame's tokens (`decide`), given the frame's luma as a callable, which is called only when pixels must decide or are kept,
the tokens that coverage forces, and those that zones hide, which are never kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from codecflow.grid import TokenGrid
from codecflow.messages import Signal

from .boxes import Cells
from .certificate import Certificate, check_fits
from .config import KeepConfig

Mask = npt.NDArray[np.bool_]
Luma = Callable[[], npt.NDArray[np.uint8]]
"""Returns the decoded picture's luma, (height, width) uint8, as coded: no resize, no change of range."""


@dataclass(frozen=True, slots=True)
class KeepDecision:
    """The decision on one frame's tokens; each mask is (tokens,) bool.

    `keep`: encode these. `forced`: those among them that coverage keeps, regardless of the policy. `certified`: dropped
    because the codec signal alone proves them unchanged (within the thresholds). `compared`: decided from pixels. `hidden`:
    in a zone that the model must not see.
    """

    keep: Mask
    certified: Mask
    compared: Mask
    forced: Mask
    hidden: Mask

    @property
    def anchor(self) -> bool:
        """Coverage keeps the whole frame, except hidden tokens."""
        return bool((self.forced | self.hidden).all())


class Policy(Protocol):
    """A keep policy's state for one stream and one token grid: a few numbers per token, never a picture."""

    def observe(self, signal: Signal | None) -> None:
        """The signal of the next signal picture; None: the next frame has none. Raises MessageError when it is not of this
        grid's picture."""
        ...

    def invalidate(self) -> None:
        """The frame's samples are not those on which its signal was measured."""
        ...

    def decide(self, luma: Luma, forced: Mask, hidden: Mask) -> KeepDecision:
        """The decision for the frame whose signal was observed last. No token is both `forced` and `hidden`. If `luma`
        raises, the policy's state is as before the frame."""
        ...


class KeepAll:
    """Every token of every frame: the quality reference."""

    def __init__(self, grid: TokenGrid, config: KeepConfig) -> None: ...

    def observe(self, signal: Signal | None) -> None: ...

    def invalidate(self) -> None: ...

    def decide(self, luma: Luma, forced: Mask, hidden: Mask) -> KeepDecision:
        luma()
        nothing = np.zeros_like(forced)
        return KeepDecision(~hidden, nothing, nothing, forced, hidden)


class KeepMotion:
    """Tokens touched by a vector of at least tau, or an intra block, since they were last forced.

    The policy of CodecFlow (arXiv 2604.06036): the union over every coded picture since the anchor, over all blocks that the
    footprint overlaps. It does not look at pixels. If no vectors are known (a missing signal, a codec that exports none),
    motion cannot be excluded, and the token counts as moved.
    """

    def __init__(self, grid: TokenGrid, config: KeepConfig) -> None:
        self._cells = Cells(grid)
        self._tau = np.ceil(config.tau_px * 4)  # vectors are in quarter pixels
        self._moved: Mask = np.zeros(grid.tokens, bool)
        self._tick: int | None = None

    def observe(self, signal: Signal | None) -> None:
        missing = signal is None or (self._tick is not None and signal.previous != self._tick)
        self._tick = None if signal is None else signal.tick
        if signal is not None:
            check_fits(signal, self._cells)
        if missing or signal is None or signal.motion is None:
            self._moved[:] = True
            return
        moving = signal.motion >= self._tau
        if signal.intra is not None:
            moving |= signal.intra > 0
        self._moved |= self._cells.block_sums(moving.astype(np.int64)) > 0

    def invalidate(self) -> None: ...

    def decide(self, luma: Luma, forced: Mask, hidden: Mask) -> KeepDecision:
        keep = (forced | self._moved) & ~hidden
        if keep.any():
            luma()
        self._moved[forced] = False
        nothing = np.zeros_like(forced)
        return KeepDecision((forced | self._moved) & ~hidden, nothing, nothing, forced, hidden)


class KeepReplenish:
    """Tokens that look different from when they were last kept (conditional replenishment).

    Kept when the mean luma of any of its cells differs by more than `detail_threshold`, or that over the token by more than
    `threshold`. Differences are signed, so that noise averages out, and relative to what was kept, converted to the camera's
    current exposure; both thresholds rise with the stream's noise (certificate.py). Pixels are compared only if the codec
    signal cannot prove that both are within.
    """

    def __init__(self, grid: TokenGrid, config: KeepConfig) -> None:
        self._cells = Cells(grid)
        self._certificate = Certificate(self._cells, config.threshold, config.detail_threshold)

    def observe(self, signal: Signal | None) -> None:
        if signal is None:
            self._certificate.unknown()
        else:
            self._certificate.observe(signal)

    def invalidate(self) -> None:
        self._certificate.invalidate()

    def decide(self, luma: Luma, forced: Mask, hidden: Mask) -> KeepDecision:
        certificate = self._certificate
        certified = certificate.within() & ~forced & ~hidden
        compared = ~certified & ~forced & ~hidden
        keep = forced.copy()
        if (certified | hidden).all():
            return KeepDecision(keep, certified, compared, forced, hidden)
        now = self._cells.of_tokens(self._cells.means(luma()))
        # Certified tokens are measured too: their bounds grow with each reference, until one after the other needs pixels.
        tokens = np.flatnonzero(~forced & ~hidden)
        keep[tokens] = ~certificate.compare(tokens, now[tokens]) & compared[tokens]
        kept = np.flatnonzero(keep)
        certificate.keep(kept, now[kept])
        return KeepDecision(keep, certified, compared, forced, hidden)


POLICIES: dict[str, Callable[[TokenGrid, KeepConfig], Policy]] = {
    "all": KeepAll,
    "motion": KeepMotion,
    "replenish": KeepReplenish,
}
