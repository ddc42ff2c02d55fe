"""The keep policies by name, one function each.

Each takes the codec signal since the sampled frame before (None: there is none), the frame's luma as a callable that is
called only when pixels must decide, the tokens that coverage forces, and what it remembers of the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codecflow.grid import TokenGrid
from codecflow.messages import Signal

from .boxes import Footprints
from .certificate import Certificate, check_fits
from .config import KeepConfig

Mask = npt.NDArray[np.bool_]
Luma = Callable[[], npt.NDArray[np.uint8]]
"""Gives the decoded picture's luma, (height, width) uint8, as coded: no resize, no change of range."""


@dataclass(frozen=True, slots=True)
class KeepDecision:
    """What was decided of one frame's tokens; each mask is (tokens,) bool.

    `keep`: encode these. `forced`: those among them that coverage keeps, whatever the policy says. `certified`: dropped
    because the codec signal alone proves them unchanged (within the thresholds). `compared`: pixels decided.
    """

    keep: Mask
    certified: Mask
    compared: Mask
    forced: Mask

    @property
    def anchor(self) -> bool:
        """Coverage keeps the whole frame."""
        return bool(self.forced.all())


class Memory:
    """What the policies remember of a stream: per token, never a whole picture (see `Footprints`)."""

    def __init__(self, grid: TokenGrid, config: KeepConfig) -> None:
        self.config = config
        self.footprints = Footprints(grid)
        self.certificate = Certificate(self.footprints, config.threshold, config.detail_threshold)
        self.moved: Mask = np.zeros(grid.tokens, bool)
        self.last_kept: npt.NDArray[np.uint8] | None = None  # (tokens, height, width) patches


def keep_all(signal: Signal | None, luma: Luma, forced: Mask, memory: Memory) -> KeepDecision:
    """Every token of every frame: the reference."""
    nothing = np.zeros_like(forced)
    return KeepDecision(np.ones_like(forced), nothing, nothing, forced)


def keep_motion(signal: Signal | None, luma: Luma, forced: Mask, memory: Memory) -> KeepDecision:
    """Tokens that a vector of at least tau, or an intra block, has touched since they were last forced.

    The policy of CodecFlow (arXiv 2604.06036): the union over every coded picture since the anchor, over all blocks that the
    footprint overlaps. It never looks at pixels. Where no vectors are known (a missing signal, a codec that exports none)
    nothing speaks against motion, and the token counts as moved.
    """
    if signal is None or signal.motion is None:
        memory.moved[:] = True
    else:
        check_fits(signal, memory.footprints)
        moving = signal.motion >= np.ceil(memory.config.tau_px * 4)  # vectors are in quarter pixels
        if signal.intra is not None:
            moving |= signal.intra > 0
        memory.moved |= memory.footprints.block_sums(moving.astype(np.int64)) > 0
    memory.moved[forced] = False
    nothing = np.zeros_like(forced)
    return KeepDecision(forced | memory.moved, nothing, nothing, forced)


def keep_replenish(signal: Signal | None, luma: Luma, forced: Mask, memory: Memory) -> KeepDecision:
    """Tokens whose pixels differ from those of the frame in which they were last kept (conditional replenishment).

    Kept when the mean absolute luma difference over the footprint is above `threshold`, or that within any of its cells is
    above `detail_threshold` (the sum in the cell, cut to the footprint, over a whole cell's area). Pixels are compared only
    where the codec signal cannot show that both are within.
    """
    certificate, footprints = memory.certificate, memory.footprints
    certificate.accumulate(signal)
    certified = certificate.within() & ~forced
    compared = ~certified & ~forced
    keep = forced.copy()
    if certified.all():
        return KeepDecision(keep, certified, compared, forced)
    looked_at = np.flatnonzero(~certified)
    now = footprints.patches(luma(), looked_at)
    if memory.last_kept is None:
        memory.last_kept = np.zeros((forced.size, *now.shape[1:]), np.uint8)
    among = compared[looked_at]
    if among.any():
        tokens = np.flatnonzero(compared)
        differences = footprints.cell_differences(now[among], memory.last_kept[tokens])
        keep[tokens] = ~certificate.measured_within(tokens, differences)
    kept = np.flatnonzero(keep)
    memory.last_kept[kept] = now[keep[looked_at]]
    certificate.restart(kept)
    return KeepDecision(keep, certified, compared, forced)


Policy = Callable[[Signal | None, Luma, Mask, Memory], KeepDecision]

POLICIES: dict[str, Policy] = {"all": keep_all, "motion": keep_motion, "replenish": keep_replenish}
