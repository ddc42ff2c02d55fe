"""Unusual pictures, strides and masks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from codecflow.vlm.work import Frame, StreamWork

from .cases import Case
from .oracle import Oracle
from .running import QUESTION, THIRD, Run, assert_equal

PROMPTS = (QUESTION.prompt, THIRD.prompt)


def picture_of(case: Case, rng: np.random.Generator, index: int, width: int, height: int, share: float) -> Frame:
    keep = rng.random(case.family.grid(width, height).tokens) < share
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    patches = case.family.input.patches(pixels, keep) if keep.any() else None
    return Frame(index, index / 2, keep, patches, (width, height))


def test_sizes_change_in_mid_stream_portrait_and_odd_ones_too(case: Case) -> None:
    rng = np.random.default_rng(0)
    run, oracle = Run(case), Oracle(case)
    for step, (width, height) in enumerate([(320, 180), (180, 320), (333, 187), (97, 101), (640, 360)]):
        new = [picture_of(case, rng, 2 * step + n, width, height, 0.6) for n in range(2)]
        first = max(0, 2 * step - 2)
        assert_equal(run.step(new, first, (QUESTION, THIRD)), oracle.step(new, first, PROMPTS), f"{width}x{height}")


def test_grids_cover_pictures_of_any_size(case: Case) -> None:
    for width, height in [(320, 180), (180, 320), (333, 187), (97, 101), (1920, 1080)]:
        grid = case.family.grid(width, height)
        seen = np.zeros((height, width), bool)
        for x0, y0, x1, y1 in grid.boxes.tolist():
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            seen[y0:y1, x0:x1] = True
        assert seen.mean() > 0.9, f"{width}x{height}: {seen.mean():.0%} of the picture is under a token"


def test_pictures_are_resized_alike_in_any_thread_and_from_any_layout(case: Case) -> None:
    rng = np.random.default_rng(7)
    pictures = [rng.integers(0, 256, size, dtype=np.uint8) for size in [(97, 101, 3), (180, 320, 3), (360, 640, 3)] * 4]
    own = case.family.input
    expected = [own.pixels(rgb) for rgb in pictures]
    turned = [np.rot90(np.rot90(rgb)) for rgb in pictures]  # a view with negative strides, as a rotated picture may be
    turned = [np.rot90(np.rot90(rgb)) for rgb in turned]
    with ThreadPoolExecutor(4) as threads:
        for found in (threads.map(own.pixels, pictures), threads.map(own.pixels, turned)):
            for one, rgb, other in zip(found, pictures, expected, strict=True):
                assert torch.equal(one, other)
                assert one.shape == (*own.size(rgb.shape[1], rgb.shape[0]), 3)
                assert one.dtype == torch.uint8
                assert one.is_contiguous()


def test_slots_may_be_missing_and_a_stream_may_begin_anywhere(case: Case) -> None:
    rng = np.random.default_rng(1)
    run, oracle = Run(case), Oracle(case)
    for indices, first in (([41, 42, 45], 40), ([46, 50], 44), ([], 48), ([60, 61], 56)):
        new = case.frames(rng, indices, 0.5)
        got = run.step(new, first, (QUESTION, THIRD))
        assert_equal(got, oracle.step(new, first, PROMPTS), f"frames {indices} from {first}")
    assert run.outcome.frames_seen == 2


def test_nothing_moves_for_whole_windows(case: Case) -> None:
    """Frames without tokens cost nothing; windows with only such frames are answered too."""
    rng = np.random.default_rng(2)
    run, oracle = Run(case), Oracle(case)
    for step in range(8):
        new = case.frames(rng, range(2 * step, 2 * step + 2), 1.0 if step in (0, 6) else 0.0)
        first = max(0, 2 * step - 2)
        got = run.step(new, first, (QUESTION, THIRD))
        assert_equal(got, oracle.step(new, first, PROMPTS), f"step {step}")
        assert run.outcome.frames_seen == min(4, 2 * step + 2)
        if step not in (0, 6):
            assert run.outcome.flops.vit == 0
            assert run.outcome.tokens.refreshed == 0


def test_everything_moves(case: Case) -> None:
    rng = np.random.default_rng(3)
    run, oracle = Run(case), Oracle(case)
    for step in range(4):
        new = case.frames(rng, range(2 * step, 2 * step + 2), 1.0)
        first = max(0, 2 * step - 2)
        assert_equal(run.step(new, first, (QUESTION, THIRD)), oracle.step(new, first, PROMPTS), f"step {step}")
    assert run.outcome.tokens.kept == run.outcome.tokens.total == 2 * case.tokens


def test_a_stream_cannot_come_twice(case: Case) -> None:
    work = StreamWork("camera", [], 0, [QUESTION])
    with pytest.raises(ValueError, match="twice"):
        Run(case).engine.step([work, work])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same(case: Case, dtype: torch.dtype) -> None:
    half = case.in_dtype(dtype)
    rng = np.random.default_rng(5)
    run, exact = Run(half, position_limit=6 * 40 + 200), Run(case)
    for step in range(6):
        new = case.frames(rng, range(2 * step, 2 * step + 2), 0.6)
        first = max(0, 2 * step - 2)
        got, expected = run.step(new, first, (QUESTION, THIRD)), exact.step(new, first, (QUESTION, THIRD))
        assert run.engine.pool.keys.stored.dtype == dtype
        spread = float(expected.std())
        assert_equal(got / spread, expected / spread, f"{dtype}, step {step}, in deviations", 0.3)
