"""One stream's keep masks, frame by frame, and which tokens are kept regardless of the policy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codecflow.grid import TokenGrid
from codecflow.messages import Signal

from .config import KeepConfig
from .policies import POLICIES, KeepDecision, Luma


class Coverage:
    """Which tokens are kept regardless of the policy, so that every cell has a kept token in every window.

    An anchor is due at every whole multiple of the period, and falls on the first frame from then on that is a keyframe:
    such a frame is decoded by itself. If none comes within `slack_s`, it falls on the next frame. `rolling` forces a
    rotating share of the tokens in each frame.

    Depends only on presentation time and keyframes (slots count from the start of the epoch), so that a replay forces the
    same tokens from its second anchor on. A token whose slot has no frame is forced in the next existing frame.
    """

    def __init__(self, config: KeepConfig, tokens: int) -> None:
        self._config, self._tokens = config, tokens
        self._previous: int | None = None
        self._period = 0  # the period of the newest anchor

    def forced(self, slot: int, keyframe: bool) -> npt.NDArray[np.bool_]:
        """(tokens,) bool: tokens due in the frame of `slot`."""
        previous, period = self._previous, self._config.period_slots
        if previous is None:
            return np.ones(self._tokens, bool)
        if self._config.coverage == "rolling":
            # Token t is due in slots s with s % period == t % period: a share of 1 / period of the tokens each time.
            phase = np.arange(self._tokens) % period
            return np.asarray((slot - phase) // period != (previous - phase) // period)
        due = (self._period + 1) * period
        return np.full(self._tokens, slot >= due + (0 if keyframe else self._config.slack_slots))

    def advance(self, slot: int, keyframe: bool) -> None:
        """The frame of `slot` exists, with the tokens kept that were due."""
        period, slack = self._config.period_slots, self._config.slack_slots
        if keyframe or self._previous is None:
            self._period = max(self._period, slot // period)
        else:
            self._period = max(self._period, (slot - slack) // period)
        self._previous = slot


class KeepState:
    """Decides, frame by frame, which tokens of one stream are encoded.

    One state serves one token grid and one set of zones: when the picture's size or the zones change, create a new one,
    whose first frame is kept whole. `hidden`: (tokens,) bool, those that are never kept or compared (keep/zones.py).
    """

    def __init__(self, grid: TokenGrid, config: KeepConfig, hidden: npt.NDArray[np.bool_] | None = None) -> None:
        self.grid = grid
        self.config = config
        self._policy = POLICIES[config.policy](grid, config)
        self._coverage = Coverage(config, grid.tokens)
        self._hidden = np.zeros(grid.tokens, bool) if hidden is None else hidden
        self._slot: int | None = None
        self._observed = False

    def observe(self, signal: Signal) -> None:
        """The codec signal of the next signal picture, in tick order, whether or not the picture is a sampled frame.

        Raises MessageError when it is not of this grid's picture.
        """
        self._policy.observe(signal)
        self._observed = True

    def invalidate(self) -> None:
        """To be called by `luma` when the frame's samples are not those on which its signal was measured: the signal then
        says nothing about what is kept or measured now."""
        self._policy.invalidate()

    def step(self, slot: int, luma: Luma, *, keyframe: bool = False) -> KeepDecision:
        """The decision for the frame in `slot` (presentation time x fps), later than all earlier ones, whose signal was
        observed last; nothing is known about a frame without one.

        `luma`: called at most once, and only when pixels must decide or are kept; its exceptions are passed on, and the
        frame counts as missing. `keyframe`: the frame's picture can be decoded by itself.

        Raises ValueError on an impossible slot or luma.
        """
        if self._slot is not None and slot <= self._slot:
            raise ValueError(f"slot {slot} does not follow slot {self._slot}")
        if not self._observed:
            self._policy.observe(None)
        self._observed = False
        forced = self._coverage.forced(slot, keyframe) & ~self._hidden
        decision = self._policy.decide(luma, forced, self._hidden)
        self._coverage.advance(slot, keyframe)
        self._slot = slot
        return decision
