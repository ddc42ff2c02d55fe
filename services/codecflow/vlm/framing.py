"""From a sampled frame to its place in a stream's token sequence."""

from __future__ import annotations

import numpy as np
import torch

from codecflow.vlm.families.base import Family
from codecflow.vlm.window import HeldFrame
from codecflow.vlm.work import Frame


def hold(family: Family, frame: Frame) -> HeldFrame:
    """The frame's tokens, with no pixel touched yet: tags of the family's video template around the kept tokens.

    Raises ValueError when the keep mask is not of the family's grid for this picture.
    """
    before, after = family.frame_text(frame.index, frame.time_s)
    held = HeldFrame(frame.index, frame.keep.size, len(before) + len(after), frame.anchor)
    if not frame.keep.any():
        return held
    if frame.pixels is None:
        raise ValueError(f"frame {frame.index}: tokens are kept but there are no pixels")
    width, height = frame.size
    grid = family.known_grid(width, height)
    if grid.tokens != frame.keep.size:
        raise ValueError(
            f"frame {frame.index}: a keep mask of {frame.keep.size} for {grid.tokens} tokens at {width}x{height}"
        )
    if tuple(frame.pixels.shape) != (3, *family.model_size(width, height)):
        raise ValueError(f"frame {frame.index}: pixels {tuple(frame.pixels.shape)} are not of the model's input size")
    kept = torch.from_numpy(np.flatnonzero(frame.keep))
    held.kept = len(kept)
    held.positions, held.span = family.frame_positions(grid, kept, len(before), len(after))
    held.ids = torch.tensor([*before, *[0] * len(kept), *after], dtype=torch.int64)
    held.visual = torch.zeros(len(held.ids), dtype=torch.bool)
    held.visual[len(before) : len(before) + len(kept)] = True
    return held
