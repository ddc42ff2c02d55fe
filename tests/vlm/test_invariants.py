"""Invariants for any input, on every family, float32, on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from codecflow.messages import Question
from codecflow.vlm.work import StreamWork

from .cases import Case
from .oracle import Oracle
from .running import QUESTION, SECOND, THIRD, Run, assert_equal, properties


def test_1_keep_all_refresh_all_is_transformers_own_model(case: Case) -> None:
    rng = np.random.default_rng(1)
    run, held = Run(case, "all"), []
    for step in range(4):
        new = case.frames(rng, range(2 * step, 2 * step + 2))
        first = max(0, 2 * step + 2 - 5)
        held = [frame for frame in [*held, *new] if frame.index >= first]
        got = run.step(new, first)[0]
        assert_equal(got, case.stock_logits(held, QUESTION.prompt)[-1], f"window {step}")
        flops = run.outcome.flops
        assert flops.vit + flops.llm == flops.full


@properties
@given(share=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_2_features_of_kept_tokens_are_the_masked_vits(case: Case, share: float, seed: int) -> None:
    frames = [f for f in case.frames(np.random.default_rng(seed), range(3), share) if f.keep.any()]
    if not frames:
        return
    family = case.family
    with torch.inference_mode():
        found = family.encode(prepared := family.prepare(frames)).split(prepared.tokens)
    for frame, features in zip(frames, found, strict=True):
        assert_equal(features, case.masked_features(frame), f"features of {frame.keep.sum()} tokens")


@properties
@given(
    share=st.floats(0.0, 1),
    stride=st.integers(1, 4),
    window=st.integers(1, 6),
    slides=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_3_refresh_all_is_from_scratch_after_any_slides(
    case: Case, share: float, stride: int, window: int, slides: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    run, held = Run(case, "all"), []
    for step in range(slides):
        new = case.frames(rng, range(stride * step, stride * step + stride), share)
        first = max(0, stride * (step + 1) - window)
        held = [frame for frame in [*held, *new] if frame.index >= first]
        got = run.step(new, first, (QUESTION, THIRD))
    assert_equal(got, Run(case, "none").step(held, 0, (QUESTION, THIRD)), f"after {slides} slides")


@properties
@given(
    share=st.floats(0.0, 1),
    stride=st.integers(1, 4),
    window=st.integers(1, 6),
    slides=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_4_slides_are_one_long_masked_forward(
    case: Case, share: float, stride: int, window: int, slides: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    run, oracle = Run(case), Oracle(case)
    for step in range(slides):
        new = case.frames(rng, range(stride * step, stride * step + stride), share)
        first = max(0, stride * (step + 1) - window)
        got = run.step(new, first, (QUESTION, THIRD))
        inside = [frame for frame in new if frame.index >= first]
        expected = oracle.step(inside, first, (QUESTION.prompt, THIRD.prompt))
        assert_equal(got, expected, f"slide {step}, {run.outcome.tokens}")


@properties
@given(
    shares=st.lists(st.floats(0, 1), min_size=2, max_size=4),
    seed=st.integers(0, 99),
    batch=st.sampled_from([1, 64, 4096]),
)
def test_5_answers_alone_are_answers_in_a_batch(case: Case, shares: list[float], seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    questions = (QUESTION, SECOND, Question("c", "Which?", "choice", labels=("car", "car park", "no")))
    streams = {f"camera-{n}": share for n, share in enumerate(shares)}
    together = Run(case, batch_tokens=batch, batch_patches=batch)
    alone = {stream: Run(case) for stream in streams}
    for step in range(3):
        work = [
            StreamWork(s, case.frames(rng, range(2 * step, 2 * step + 2), share), max(0, 2 * step - 1), questions)
            for s, share in streams.items()
        ]
        outcomes = together.engine.step(work)
        for one, outcome in zip(work, outcomes, strict=True):
            run = alone[one.stream]
            expected = run.step(one.frames, one.first, questions, one.stream)
            got = torch.stack([together.logits[one.stream, q.id] for q in questions])
            assert_equal(got, expected, f"{one.stream} in step {step}")
            assert outcome.answers[1].text == run.outcome.answers[1].text
            for label, p in (outcome.answers[2].label_probabilities or {}).items():
                assert abs(p - (run.outcome.answers[2].label_probabilities or {})[label]) < 1e-4
            assert outcome.tokens == run.outcome.tokens
            assert outcome.flops == run.outcome.flops


def test_6_rebasing_positions_changes_nothing(case: Case) -> None:
    rng = np.random.default_rng(6)
    grid = case.family.grid(case.width, case.height)
    before, after = map(len, case.family.frame_text(10, 5.0))
    span = case.family.frame_positions(grid, torch.arange(case.tokens), before, after)[1]
    rebasing, free = Run(case, position_limit=6 * span + 64), Run(case)  # 6 frames, prefix and questions
    rebased = 0
    for step in range(12):
        new = case.frames(rng, range(2 * step, 2 * step + 2), 0.7)
        before = rebasing.engine.windows["camera"].position if step else 0
        got = rebasing.step(new, max(0, 2 * step - 2), (QUESTION, THIRD))
        rebased += rebasing.engine.windows["camera"].position < before
        assert_equal(got, free.step(new, max(0, 2 * step - 2), (QUESTION, THIRD)), f"step {step}, {rebased} rebasings")
    assert rebased >= 2, "positions were never rebased: the test tests nothing"
