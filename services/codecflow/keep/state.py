"""One stream's keep masks, frame by frame."""

from __future__ import annotations

from codecflow.grid import TokenGrid
from codecflow.messages import Signal

from .config import KeepConfig
from .coverage import forced_tokens
from .policies import POLICIES, KeepDecision, Luma, Memory


class KeepState:
    """Decides, frame by frame, which tokens of one stream are encoded.

    One state serves one token grid: when the picture's size changes, begin a new one, whose first frame is kept whole.
    """

    def __init__(self, grid: TokenGrid, config: KeepConfig) -> None:
        self.grid = grid
        self.config = config
        self._policy = POLICIES[config.policy]
        self._memory = Memory(grid, config)
        self._slot: int | None = None

    def step(self, slot: int, signal: Signal | None, luma: Luma) -> KeepDecision:
        """The decision for the frame in `slot` (presentation time x fps), later than any before it.

        `signal`: what the codec saw change since the frame given before this one, merged over its ticks; None where any of
        it is missing. `luma`: called at most once, and only when pixels must decide or be remembered.

        Raises MessageError when the signal is not of this grid's picture, ValueError on a slot or a luma that cannot be.
        """
        if self._slot is not None and slot <= self._slot:
            raise ValueError(f"slot {slot} does not follow slot {self._slot}")
        forced = forced_tokens(self.config, self.grid.tokens, self._slot, slot)
        decision = self._policy(signal, luma, forced, self._memory)
        self._slot = slot
        return decision
