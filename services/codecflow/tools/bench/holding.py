"""What windows hold under a stream's keep masks, and for which of them a worker repeats the previous answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codecflow.worker.window_plan import WindowPlan


@dataclass(frozen=True, slots=True)
class Held:
    """One window, in tokens: `held` in total, including `background`. `reused`: it holds the same tokens as the previous
    one, and its computed answer is not older than the worker allows."""

    held: int
    background: int
    reused: bool


class Holding:
    """Follows one policy's masks. `background`: tokens outlive their frames. `reuse_slots`: as in a worker."""

    def __init__(self, plan: WindowPlan, background: bool, reuse_slots: int) -> None:
        self.windows: list[Held] = []
        self._plan, self._background, self._reuse_slots = plan, background, reuse_slots
        self._frames: list[tuple[int, npt.NDArray[np.int64]]] = []  # slot, its kept cells
        self._newest: npt.NDArray[np.int64] | None = None  # per cell, the slot that last kept it, before the window
        self._window: int | None = None
        self._before: npt.NDArray[np.int64] | None = None  # slot and cell of each token of the previous window
        self._computed = 0

    def add(self, slot: int, keep: npt.NDArray[np.bool_]) -> None:
        """Adds the frame of a slot. Slots must be ascending."""
        window = self._plan.window_of(slot)
        if self._window is not None and window != self._window:
            self._close(self._window)
        if self._newest is None or self._newest.size != keep.size:
            self._newest, self._frames = np.full(keep.size, -1), []
        self._window = window
        self._frames.append((slot, np.flatnonzero(keep)))

    def end(self) -> None:
        """Ends the stream: the window of the newest stride is complete if its last slot has been added."""
        if self._window is not None and self._frames[-1][0] + 1 >= self._plan.end(self._window):
            self._close(self._window)

    def _close(self, window: int) -> None:
        assert self._newest is not None
        first, end = self._plan.first(window), self._plan.end(window)
        for slot, kept in self._frames:
            if slot < first:
                self._newest[kept] = slot
        self._frames = [frame for frame in self._frames if frame[0] >= first]
        tokens = [slot * self._newest.size + kept for slot, kept in self._frames]
        behind = self._newest.copy()
        for _, kept in self._frames:
            behind[kept] = -1
        outlived = np.flatnonzero(behind >= 0) if self._background else np.zeros(0, np.int64)
        held = np.sort(np.concatenate([behind[outlived] * self._newest.size + outlived, *tokens]))
        same = self._before is not None and np.array_equal(held, self._before)
        recent = bool(self._reuse_slots) and end // self._reuse_slots == self._computed // max(1, self._reuse_slots)
        reused = same and recent
        if not reused:
            self._computed = end
        self._before = held
        self.windows.append(Held(len(held), len(outlived), reused))
