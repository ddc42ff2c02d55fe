"""Refresh policies compared with one long masked forward in which refreshed tokens are further versions of themselves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codecflow.errors import ConfigError
from codecflow.vlm.refresh import Refresh, deviations

from .cases import Case
from .oracle import Live, Oracle
from .running import QUESTION, THIRD, Run, assert_equal, properties

PROMPTS = (QUESTION.prompt, THIRD.prompt)


@properties
@given(share=st.floats(0.1, 1), stride=st.integers(1, 3), every=st.integers(1, 4), seed=st.integers(0, 99))
def test_anchors_are_computed_in_todays_context(case: Case, share: float, stride: int, every: int, seed: int) -> None:
    def anchors(overlap: list[Live]) -> list[int]:
        return [index for index, token in enumerate(overlap) if token.anchor]

    rng = np.random.default_rng(seed)
    run, oracle = Run(case, "anchors"), Oracle(case, anchors)
    for step in range(4):
        new = case.frames(rng, range(stride * step, stride * step + stride), share, anchors=every)
        first = max(0, stride * (step + 1) - 5)
        got = run.step(new, first, (QUESTION, THIRD))
        assert_equal(got, oracle.step(new, first, PROMPTS), f"step {step}, anchors every {every}")


@properties
@given(share=st.floats(0.1, 1), budget=st.floats(0, 1), seed=st.integers(0, 99))
def test_budget_by_position_computes_the_oldest(case: Case, share: float, budget: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    run = Run(case, Refresh("budget", budget, "position"))
    oracle = Oracle(case, lambda overlap: range(round(budget * len(overlap))))
    for step in range(4):
        new = case.frames(rng, range(2 * step, 2 * step + 2), share)
        first = max(0, 2 * step - 2)
        assert_equal(run.step(new, first, (QUESTION, THIRD)), oracle.step(new, first, PROMPTS), f"budget {budget:.2f}")


@pytest.mark.parametrize("by", ["deviation", "position", "random"])
def test_a_whole_budget_is_from_scratch_and_none_is_none(case: Case, by: str) -> None:
    rng = np.random.default_rng(3)
    whole, none = Run(case, Refresh("budget", 1.0, by)), Run(case, Refresh("budget", 0.0, by))  # type: ignore[arg-type]
    scratch, reuse = Run(case, "all"), Run(case, "none")
    for step in range(4):
        new = case.frames(rng, range(2 * step, 2 * step + 2), 0.6)
        first = max(0, 2 * step - 2)
        assert_equal(whole.step(new, first), scratch.step(new, first), f"a budget of everything by {by}, step {step}")
        assert_equal(none.step(new, first), reuse.step(new, first), f"a budget of nothing by {by}, step {step}")
    assert whole.outcome.tokens.reused == 0
    assert none.outcome.tokens.refreshed == none.outcome.tokens.kept


@pytest.mark.parametrize("by", ["shifted", "random", "position", "deviation"])
def test_a_matched_budget_is_as_many_tokens_as_anchors_would_take(case: Case, by: str) -> None:
    rng = np.random.default_rng(6)
    anchors, matched = Refresh("anchors"), Refresh("budget", 0.0, by, matched=True)  # type: ignore[arg-type]
    runs = [Run(case, anchors), Run(case, matched)]
    different = 0
    for step in range(5):
        new = case.frames(rng, range(2 * step, 2 * step + 2), 0.5, anchors=3)
        got = [run.step(new, max(0, 2 * step - 4)) for run in runs]
        different += not torch.equal(*got)
    assert different, f"by {by}: the same tokens as the anchors' each time"
    window = runs[1].engine.windows["camera"]
    deviation = torch.rand(sum(frame.tokens for frame in window.live))
    taken = [sum(len(run) for run in policy.runs(window, window.live, deviation)) for policy in (anchors, matched)]
    assert taken[0] == taken[1] > 0, f"by {by}"


def test_shifted_anchors_are_the_frames_halfway_between(case: Case) -> None:
    """With everything kept: every fourth frame is an anchor, and the frame two after each is refreshed instead."""

    def shifted(overlap: list[Live]) -> list[int]:
        return [index for index, token in enumerate(overlap) if token.frame % 4 == 2]

    rng = np.random.default_rng(7)
    run, oracle = Run(case, Refresh("budget", by="shifted", matched=True)), Oracle(case, shifted)
    for indices, first in ((range(8), 0), (range(8, 9), 4)):
        new = case.frames(rng, indices, anchors=4)
        got = run.step(new, first, (QUESTION, THIRD))
        assert_equal(got, oracle.step(new, first, PROMPTS), f"frames from {first} on")


def test_scattered_tokens_are_one_masked_attention(case: Case) -> None:
    """With more runs than are computed individually: the indexed, masked path gives the same result as the causal one."""
    rng = np.random.default_rng(4)
    policy = Refresh("budget", 0.5, "random")
    stretches = 0

    def choose(overlap: list[Live]) -> list[int]:
        nonlocal stretches
        order = policy.order("camera", overlap[0].frame, len(overlap))
        chosen = sorted(order[: round(0.5 * len(overlap))].tolist())
        stretches = 1 + sum(b - a > 1 for a, b in pairwise(chosen))
        return chosen

    run, oracle = Run(case, policy), Oracle(case, choose)
    for indices, first in ((range(30), 0), (range(30, 32), 2)):
        new = case.frames(rng, indices)
        got = run.step(new, first, (QUESTION, THIRD))
        assert_equal(got, oracle.step(new, first, PROMPTS), f"{stretches} stretches")
    assert stretches > 64


def test_deviation_is_what_recomputing_changes(case: Case) -> None:
    rng = np.random.default_rng(5)
    frames = case.frames(rng, range(4), 0.8)
    buffers = []
    for share in (1.0, 0.0):
        run = Run(case, Refresh("budget", share, "position"))
        run.step(frames, 0)
        run.step([], 2)  # half of the frames leave
        window = run.engine.windows["camera"]
        slots = window.where(window.live[0].slot, window.slots)
        buffers.append(window.pool.read(slots, 1))
    with torch.inference_mode():
        ((found, _),) = deviations(case.family, window.pool, [(window, window.live)])
    expected = sum((new - old).square().sum((1, 2)) for new, old in zip(*buffers, strict=True))
    assert found.max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'some'.*none, anchors, budget, all"):
        Refresh.parse("some")
    with pytest.raises(ConfigError, match=r"'none=0\.5': use one of"):
        Refresh.parse("none=0.5")
    with pytest.raises(ConfigError, match="budget=SHARE takes a number"):
        Refresh.parse("budget=lots")
    assert Refresh.parse("budget=0.3") == Refresh("budget", 0.3)
    with pytest.raises(ConfigError, match="share 2"):
        Refresh("budget", 2)
    with pytest.raises(ConfigError, match=r"'shifted'.*matched"):
        Refresh("budget", by="shifted")
    with pytest.raises(ConfigError, match=r"'size'.*deviation, position, random"):
        Refresh("budget", by="size")  # type: ignore[arg-type]
