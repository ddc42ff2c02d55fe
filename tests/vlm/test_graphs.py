"""Forwards padded to the sizes of CUDA graphs. On a CPU the padded forward runs without a graph; what differs on a GPU is
checked by `codecflow bench gpu` (tools/bench/device_check.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codecflow.messages import Question
from codecflow.vlm.encoder_graphs import EncoderGraphs
from codecflow.vlm.graphs import GRAPHS, coarse, power, stepped
from codecflow.vlm.kernels import Kernels
from codecflow.vlm.kv_pool import PAGE
from codecflow.vlm.work import StreamWork

from .cases import Case
from .ragged import reference_kernel, reference_single
from .running import QUESTION, SECOND, Run
from .test_decoder import QUESTIONS, changed


def padded(case: Case, **options: object) -> Run:
    run = Run(changed(case, kernels=Kernels(reference_kernel, reference_single)), **options)
    assert run.engine.graphs is not None
    return run


def slide(run: Run, case: Case, step: int, questions: tuple[Question, ...], rng: np.random.Generator) -> list[str]:
    frames = {s: case.frames(rng, range(2 * step, 2 * step + 2), 0.4, anchors=4) for s in ("gate", "yard")}
    outcomes = run.engine.step([StreamWork(s, f, max(0, 2 * step - 2), questions) for s, f in frames.items()])
    run.engine.check_integrity()
    return [answer.text for outcome in outcomes for answer in outcome.answers]


def test_padding_touches_no_page_of_a_stream(case: Case) -> None:
    rng, run = np.random.default_rng(2), padded(case, memory_bytes=64 << 20)
    pool = run.engine.pool
    for step in range(3):
        slide(run, case, step, QUESTIONS if step % 2 else (QUESTION,), rng)
    held = {page for window in run.engine.windows.values() for page in window.pages}
    used = {page for page in range(pool.pages + 1) if pool.keys.stored[:, page * PAGE : (page + 1) * PAGE].any()}
    assert pool.scratch in used, "no forward was padded"
    assert pool.scratch not in held
    assert max(used - {pool.scratch}) < pool.peak, "a page that was never taken was written"


def test_what_padding_holds_does_not_matter(case: Case) -> None:
    """Buffers are reused, so rows of padding hold what earlier forwards left there."""
    logits = []
    for noise in (False, True):
        rng, run = np.random.default_rng(3), padded(case)
        found = []
        for step in range(3):
            slide(run, case, step, (QUESTION, SECOND), rng)
            found += [row.clone() for row in run.logits.values()]
            if noise:
                graphs = run.engine.graphs
                assert graphs is not None
                assert graphs._rows
                with torch.inference_mode():
                    for name in ("embeds", "cos", "sin"):
                        graphs._rows[name].normal_()
        logits.append(found)
    for one, two in zip(*logits, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_sizes_repeat(case: Case) -> None:
    """A stream's steps fall into few buckets, or each would need a new graph."""
    rng, run = np.random.default_rng(4), padded(case)
    for step in range(12):
        slide(run, case, step, (QUESTION,), rng)
    graphs = run.engine.graphs
    assert graphs is not None
    assert 0 < len(graphs.cache) <= 6


def test_few_sizes_are_kept(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecflow.vlm.graphs.GRAPHS", 1)
    rng, run = np.random.default_rng(5), padded(case)
    assert GRAPHS > 1
    answers = [slide(run, case, step, QUESTIONS if step % 2 else (SECOND,), rng) for step in range(3)]
    assert all(answers)
    assert len(run.engine.graphs.cache) == 1  # type: ignore[union-attr]  # `padded` has checked


@pytest.mark.parametrize("count", [1, 7, 8, 9, 31, 63, 64, 65, 100, 1000, 1025, 5000])
def test_bounds_of_padding(count: int) -> None:
    assert count <= stepped(count) < max(count + 8, count * 1.126 + 1)
    assert count <= coarse(count) < max(count + 16, count * 1.26 + 1)
    assert count <= power(count, 4) < max(5, 2 * count)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("frames", [1, 3, 20])
def test_a_padded_vision_tower(case: Case, frames: int, share: float) -> None:
    family = case.family
    assert family.encoder is not None
    given = case.frames(np.random.default_rng(6), range(frames), share)
    patches = family.prepare([frame for frame in given if frame.keep.any()])
    with torch.inference_mode():
        expected = family.encode(patches)
        graphs = EncoderGraphs(family.features, family.encoder.weights(), reference_kernel, family.group)
        for _ in range(2):
            found = graphs(family.tower_input(patches))
            assert found is not None
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
            assert graphs._pixels is not None
            graphs._pixels.random_()
    assert len(graphs.cache) == 1
