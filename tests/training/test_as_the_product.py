"""The recipe's own batched code does what the product does: nearly the same masks, the same sequences and positions."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from codecflow.codec.footprints import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.keep.state import KeepState
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny


def test_replenish_on_the_gpu_takes_nearly_the_masks_of_the_product() -> None:
    from camera import replenish
    from maker import SIDE, TOKENS

    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(40, 200, (1, SIDE, SIDE), np.uint8), 10, 0).astype(np.int16)
    for i in range(1, 10):  # changes of every size around the thresholds, some of them undone again
        for _ in range(30):
            x, y = rng.integers(0, SIDE - 20, 2)
            w, h = rng.integers(4, 60, 2)
            frames[i:, y : y + h, x : x + w] += rng.integers(-14, 15)
    grey = frames.clip(0, 255).astype(np.uint8)
    rgb = torch.from_numpy(grey)[None, :, None].expand(1, 10, 3, SIDE, SIDE)
    masks = replenish(rgb, anchor_every=8, phase=0)[0].numpy()
    config = KeepConfig(fps=Fraction(2), period_s=Fraction(4))
    state = KeepState(TokenGrid.regular(TOKENS, TOKENS, SIDE, SIDE), config)
    expected = np.stack([state.step(i, None, lambda i=i: grey[i]).keep for i in range(10)])  # type: ignore[misc]
    assert 0.05 < expected[1:8].mean() < 0.95
    np.testing.assert_array_equal(masks[[0, 8]], expected[[0, 8]])
    # The product lays its detail cells on the coded picture's blocks, the recipe on the token: few tokens differ by it.
    assert (masks == expected).mean() > 0.95


def test_windows_are_laid_out_as_the_engine_lays_them_out(tmp_path: Path) -> None:
    from layout import Layout

    family = load_model(str(make_tiny(tmp_path / "tiny")))
    grid = family.grid(448, 448)
    rng = np.random.default_rng(0)
    keep = rng.random((1, 4, grid.tokens)) < np.array([1.1, 0.4, 0.0, 0.2])[None, :, None]
    image_id = family.config.image_token_id
    batch = Layout(family.tokenizer, image_id).lay(keep, [7], [[("Is a person in view?", "", 1.0)]], "cpu")
    before, after = family.chat("Is a person in view?")
    ids, positions, at = [*before], [*range(len(before))], len(before)
    for i, mask in enumerate(keep[0]):
        if not mask.any():
            continue
        kept = torch.from_numpy(np.flatnonzero(mask))
        head, tail = family.frame_text(7 + i, 0.0)
        ids += [*head, *[image_id] * len(kept), *tail]
        relative, span = family.frame_positions(grid, kept, len(head), len(tail))
        positions += (relative[0] + at).tolist()
        at += span
    ids += after
    positions += range(at, at + len(after))
    assert batch.ids[0, : len(ids)].tolist() == ids
    assert batch.positions[0, : len(ids)].tolist() == positions
    assert batch.at.tolist() == [[0, len(ids) - 1]]
