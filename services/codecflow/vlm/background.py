"""The background: kept tokens that have outlived their frame, at most one per grid cell.

A window's sequence is prefix, background, frames, question. When a frame leaves, its token of a cell stays as background if
no remaining frame, and no frame of the same step, has a token of that cell. From the first whole frame on, every cell
therefore has a token. A background token keeps the keys and values that it was computed with. Its keys are rotated to the
cell's own grid position in a frame directly before the oldest one: the background takes the positions of one frame without
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codecflow.vlm.families.base import Family
from codecflow.vlm.runner import Ints, Run

Shape = tuple[int, int]


def _none() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Cells:
    """Visual tokens in a window, one per cell: of a frame, or the background.

    `shape`: rows and columns of the token grid. `cells`: (tokens,) ascending. `slots`: (tokens,) their slots.
    `origins`: (tokens,) the position of cell 0 of the same frame, on every axis. `features`: (tokens, levels, hidden), where
    the tokens may be recomputed.
    """

    shape: Shape = (0, 0)
    cells: Ints = field(default_factory=_none)
    slots: Ints = field(default_factory=_none)
    origins: Ints = field(default_factory=_none)
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.cells)

    def part(self, chosen: npt.NDArray[np.bool_]) -> Cells:
        """The tokens selected by `chosen` (tokens,)."""
        features = None if self.features is None else self.features[torch.from_numpy(np.flatnonzero(chosen))]
        return Cells(self.shape, self.cells[chosen], self.slots[chosen], self.origins[chosen], features)

    def at(self, slot: int, origin: int, *, features: bool) -> Cells:
        """The same tokens at consecutive slots from `slot`, as cells of one frame, with or without `features`."""
        slots, origins = np.arange(slot, slot + len(self)), np.full(len(self), origin)
        return replace(self, slots=slots, origins=origins, features=self.features if features else None)

    def run(self, family: Family) -> Run:
        """A run that recomputes them in place. Requires their features."""
        positions, _ = placed(family, self)
        visual, ids = np.ones(len(self), bool), np.zeros(len(self), np.int64)
        return Run(int(self.slots[0]), ids, visual, positions + int(self.origins[0]), self.features)


def placed(family: Family, background: Cells) -> tuple[Ints, int]:
    """(axes, tokens) positions relative to cell 0, and how many positions the background takes: those of one frame without
    text, or none if it is empty."""
    if not len(background):
        return np.zeros((family.axes, 0), np.int64), 0
    return family.cell_positions(background.shape, background.cells)


def outlived(before: Cells, leaving: Sequence[Cells], newer: Sequence[Cells]) -> Cells:
    """The background after the frames `leaving` (oldest first) have left. `before`: the previous background. `newer`: all
    frames in the window afterwards (oldest first), of which only shape and cells matter. Slots and origins are those from
    before the move.

    The newest frame with a token defines the current grid. Tokens of another grid, from before a change of the camera's
    picture size, are dropped.
    """
    frames = [before, *leaving, *newer]
    shape = next((one.shape for one in reversed(frames) if len(one)), (0, 0))
    covered = np.zeros(shape[0] * shape[1], bool)
    covered[np.concatenate([_none(), *(one.cells for one in newer if one.shape == shape)])] = True
    parts = []
    for one in (*reversed(leaving), before):
        if len(one) and one.shape == shape:
            part = one.part(~covered[one.cells])
            covered[part.cells] = True
            parts.append(part)
    if not parts:
        return Cells(shape)
    order = np.argsort(np.concatenate([part.cells for part in parts]), kind="stable")
    features = [part.features for part in parts if part.features is not None]
    return Cells(
        shape,
        np.concatenate([part.cells for part in parts])[order],
        np.concatenate([part.slots for part in parts])[order],
        np.concatenate([part.origins for part in parts])[order],
        torch.cat(features)[torch.from_numpy(order)] if len(features) == len(parts) else None,
    )
