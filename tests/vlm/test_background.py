"""Tokens that outlive their frame, on every family: which are held, in which context they are computed, and their cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codecflow.vlm.flops import Work
from codecflow.vlm.refresh import Refresh
from codecflow.vlm.work import Frame, StreamWork

from .cases import Case
from .oracle import Live, Oracle
from .running import QUESTION, SECOND, THIRD, Run, assert_equal, properties

PROMPTS = (QUESTION.prompt, THIRD.prompt)


def frames_of(case: Case, rng: np.random.Generator, indices: range, share: float) -> list[Frame]:
    """Slot 0 is kept completely, as by coverage; of the others about `share`."""
    return case.frames(rng, indices, share, anchors=10**6)


def cells_held(run: Run) -> list[int]:
    window = run.engine.windows["camera"]
    return [*window.background.cells.tolist(), *(c for frame in window.live for c in frame.places.tolist())]


@properties
@given(
    share=st.floats(0.0, 0.6),
    stride=st.integers(1, 3),
    window=st.integers(1, 5),
    slides=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_slides_are_one_long_masked_forward(
    case: Case, share: float, stride: int, window: int, slides: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    run, oracle = Run(case, background=True), Oracle(case, background=True)
    for step in range(slides):
        first = max(0, stride * (step + 1) - window)
        new = [f for f in frames_of(case, rng, range(stride * step, stride * step + stride), share) if f.index >= first]
        if step == 0:
            first, new = 0, frames_of(case, rng, range(stride), share)
        got = run.step(new, first, (QUESTION, THIRD))
        assert_equal(got, oracle.step(new, first, PROMPTS), f"slide {step}, {run.outcome.tokens}")
        assert set(cells_held(run)) == set(range(case.tokens)), "a cell without a token"


def anchors(overlap: list[Live]) -> list[int]:
    return [index for index, token in enumerate(overlap) if token.anchor]


@pytest.mark.parametrize("policy", ["anchors", "budget", "all"])
def test_a_refresh_computes_frames_again_and_all_the_background_too(case: Case, policy: str) -> None:
    rng = np.random.default_rng(5)
    refresh = Refresh("budget", 0.5, "position") if policy == "budget" else Refresh(policy)  # type: ignore[arg-type]
    run = Run(case, refresh, background=True)
    choose = anchors if policy == "anchors" else lambda overlap: range(round(0.5 * len(overlap)))
    oracle = Oracle(case, choose, background=True, scratch=policy == "all")
    for step in range(6):
        new = case.frames(rng, range(2 * step, 2 * step + 2), 0.2, anchors=7)
        first = max(0, 2 * step - 2)
        got = run.step(new, first, (QUESTION, THIRD))
        assert_equal(got, oracle.step(new, first, PROMPTS), f"{policy}, step {step}, {run.outcome.tokens}")
    window = run.engine.windows["camera"]
    assert len(window.background)
    assert (window.background.features is not None) == (policy == "all")
    assert run.outcome.tokens.background == len(window.background)
    assert run.outcome.tokens.refreshed + run.outcome.tokens.reused == window.visual_tokens


def test_a_whole_frame_leaves_no_background(case: Case) -> None:
    """keep `all` and refresh `all` give the same results as without a background."""
    rng = np.random.default_rng(1)
    runs = [Run(case, "all", background=background) for background in (True, False)]
    for step in range(3):
        new = case.frames(rng, range(2 * step, 2 * step + 2))
        assert torch.equal(*(run.step(new, max(0, 2 * step - 1)) for run in runs))
        assert len(runs[0].engine.windows["camera"].background) == 0
        assert runs[0].outcome.flops == runs[1].outcome.flops


def test_a_still_scene_costs_its_question_and_no_more_memory_for_ever(case: Case) -> None:
    rng = np.random.default_rng(2)
    run = Run(case, background=True)
    first = run.step(frames_of(case, rng, range(2), 0.0), 0)
    seen = []
    for step in range(1, 8):
        logits = run.step(frames_of(case, rng, range(2 * step, 2 * step + 2), 0.0), 2 * step - 2)
        window, outcome = run.engine.windows["camera"], run.outcome
        cost = case.family.text_cost
        closing = case.family.closing()
        asked = len(case.family.chat(QUESTION.prompt)[1]) + (0 if closing is None else len(closing))
        pairs = asked * window.tokens + asked * (asked + 1) // 2
        assert (outcome.tokens.kept, outcome.tokens.refreshed, outcome.tokens.reused) == (0, 0, case.tokens)
        if step > 1:
            assert outcome.tokens.background == case.tokens
            assert outcome.flops.vit == 0
            assert outcome.flops.llm == cost(Work(asked, pairs, 1, window.tokens + asked), 1)
        if step > 2:
            assert_equal(logits, seen[-1][0], "the same background")
            assert (window.position, run.engine.memory_by_stream) == seen[-1][1:]
        seen.append((logits, window.position, run.engine.memory_by_stream))
    assert first.shape == logits.shape
    held, tokens = run.engine.memory_by_stream["camera"], run.engine.windows["camera"].tokens
    assert held < (tokens + 16) * case.family.kv.bytes_per_token


def test_what_a_stream_holds_counts_features_of_the_background(case: Case) -> None:
    rng = np.random.default_rng(2)
    run = Run(case, "all", background=True)
    for step in range(3):
        run.step(frames_of(case, rng, range(2 * step, 2 * step + 2), 0.0), 2 * step)
    window = run.engine.windows["camera"]
    features = window.background.features
    assert features is not None
    expected = len(window.pages) * run.engine.pool.page_bytes + features.numel() * 4
    assert run.engine.memory_by_stream["camera"] == expected


def test_answers_alone_are_answers_in_a_batch(case: Case) -> None:
    rng = np.random.default_rng(3)
    shares = {"yard": 0.0, "gate": 0.3, "road": 0.8}
    together = Run(case, background=True, batch_tokens=64)
    alone = {stream: Run(case, background=True) for stream in shares}
    for step in range(4):
        indices, first = range(2 * step, 2 * step + 2), max(0, 2 * step - 1)
        work = [
            StreamWork(s, frames_of(case, rng, indices, share), first, [QUESTION, SECOND])
            for s, share in shares.items()
        ]
        outcomes = together.engine.step(work)
        together.engine.check_integrity()
        for one, outcome in zip(work, outcomes, strict=True):
            expected = alone[one.stream].step(one.frames, one.first, [QUESTION, SECOND], one.stream)
            got = torch.stack([together.logits[one.stream, q.id] for q in one.questions])
            assert_equal(got, expected, f"{one.stream} in step {step}")
            assert outcome.tokens == alone[one.stream].outcome.tokens


def test_rebasing_positions_changes_nothing(case: Case) -> None:
    rng = np.random.default_rng(6)
    free = Run(case, background=True)
    grid = case.family.grid(case.width, case.height)
    span = case.family.frame_positions(grid, np.arange(case.tokens), *map(len, case.family.frame_text(10, 5.0)))[1]
    rebasing, rebased, before = Run(case, background=True, position_limit=7 * span + 64), 0, 0
    for step in range(12):
        new = frames_of(case, rng, range(2 * step, 2 * step + 2), 0.3)
        first = max(0, 2 * step - 2)
        got = rebasing.step(new, first, (QUESTION, THIRD))
        assert_equal(got, free.step(new, first, (QUESTION, THIRD)), f"step {step}, {rebased} rebasings")
        rebased += rebasing.engine.windows["camera"].position < before
        before = rebasing.engine.windows["camera"].position
    assert rebased >= 2, "positions were never rebased: the test tests nothing"


def test_another_picture_size_begins_another_background(case: Case) -> None:
    rng = np.random.default_rng(7)
    run, oracle = Run(case, background=True), Oracle(case, background=True)
    wide = copy_of(case, 2 * case.width) if case.name == "qwen3_vl" else case
    tokens = wide.family.grid(wide.width, wide.height).tokens
    for step in range(6):
        source = case if step < 3 else wide
        new = source.frames(rng, range(2 * step, 2 * step + 2), 0.2, anchors=6)  # slots 0 and 6
        first = max(0, 2 * step - 1)
        assert_equal(run.step(new, first, (QUESTION, THIRD)), oracle.step(new, first, PROMPTS), f"step {step}")
    assert set(cells_held(run)) == set(range(tokens))


def copy_of(case: Case, width: int) -> Case:
    wide = object.__new__(type(case))
    wide.__dict__ = {**case.__dict__, "width": width}
    wide.tokens = case.family.grid(width, case.height).tokens
    return wide


def test_a_window_is_unchanged_while_tokens_only_become_background(case: Case) -> None:
    rng = np.random.default_rng(8)
    whole, still = frames_of(case, rng, range(1), 0.0), frames_of(case, rng, range(1, 9), 0.0)
    moved = case.frames(rng, [9], 0.5)
    with_it, without = Run(case, background=True), Run(case)
    for run in (with_it, without):
        assert not run.engine.unchanged(StreamWork("camera", whole, 0))
        run.step(whole, 0)
        assert run.engine.unchanged(StreamWork("camera", still, 0))
    assert with_it.engine.unchanged(StreamWork("camera", still, 5))
    assert not without.engine.unchanged(StreamWork("camera", still, 5))
    work = StreamWork("camera", [*still, *moved], 5)
    assert not with_it.engine.unchanged(work)
    with_it.step(work.frames, 5)
    # Tokens of slot 9 replace the background now; they stay until newer ones arrive.
    assert with_it.engine.unchanged(StreamWork("camera", [], 9))
    assert with_it.engine.unchanged(StreamWork("camera", [], 10))
    again = replace(moved[0], index=10)
    with_it.step([again], 5)
    assert not with_it.engine.unchanged(StreamWork("camera", [], 10)), "the first of two leaves for good"
