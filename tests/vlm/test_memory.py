"""The KV pool: what streams hold, which are refused, and which lose their window to others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codecflow.errors import ModelError
from codecflow.messages import Question
from codecflow.vlm.engine import Engine
from codecflow.vlm.kv_pool import PAGE, KVPool
from codecflow.vlm.window import HeldFrame
from codecflow.vlm.work import StreamWork

from .cases import Case
from .running import QUESTION, SECOND, THIRD, Run, assert_equal, properties


def memory_of(case: Case, pages: int) -> int:
    return pages * PAGE * case.family.kv.bytes_per_token


def pages_of(case: Case, frames: int, windows: int = 1) -> int:
    """Pages of windows of whole frames, and of a question as short as QUESTION."""
    tokens = HeldFrame.of(case.family, case.frames(np.random.default_rng(0), [0])[0]).tokens
    prefix, suffix = case.family.chat(QUESTION.prompt)
    return windows * -(-(len(prefix) + frames * tokens) // PAGE) + -(-(len(suffix) + 1) // PAGE)


def test_a_stream_holds_what_its_kept_tokens_need(case: Case) -> None:
    rng = np.random.default_rng(0)
    run = Run(case)
    for step in range(6):
        run.step(case.frames(rng, range(2 * step, 2 * step + 2), 0.3), max(0, 2 * step - 4))
        window = run.engine.windows["camera"]
        needed = window.tokens * case.family.kv.bytes_per_token
        held = run.engine.memory_by_stream["camera"]
        assert needed <= held <= needed + 2 * run.engine.pool.page_bytes
        assert run.engine.pool_use.held == held
    run.engine.drop("camera")
    assert run.engine.memory_by_stream == {}
    assert run.engine.pool_use.held == 0
    assert run.engine.pool_use.peak > 0


def test_the_default_pool_is_half_of_the_free_memory_and_costs_nothing_before_it_is_used(case: Case) -> None:
    pool = Engine(case.family).pool
    assert pool.nbytes > 2**28
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * 4096
    assert resident < pool.nbytes
    assert not pool.keys.stored[:, -PAGE:].any()


def test_a_pool_of_less_than_a_page_is_refused(case: Case) -> None:
    with pytest.raises(ModelError, match="less than one page"):
        KVPool(case.family.kv, 10)


def test_a_refused_stream_changes_nothing_for_the_others(case: Case) -> None:
    """Refreshes and answers are the same as without the stream that does not fit."""
    rng = np.random.default_rng(1)
    streams = ("gate", "yard", "hall")
    free, tight = Run(case, "anchors"), Run(case, "anchors", memory_bytes=memory_of(case, 2000))
    refused = 0
    for step in range(6):
        first, indices = max(0, 2 * step - 4), range(2 * step, 2 * step + 2)
        work = [StreamWork(s, case.frames(rng, indices, 0.6, anchors=3), first, [QUESTION]) for s in streams]
        if step == 2:  # from here on only room for questions is free
            spare = pages_of(case, 2, windows=3)
            tight.engine.pool.take(tight.engine.pool.free - spare)
        huge = StreamWork("huge", case.frames(rng, range(100, 160), anchors=1), 100, [QUESTION])
        expected = free.engine.step(work)
        *found, last = tight.engine.step([huge, *work])[1:], tight.engine.step([])
        found = found[0]
        refused += "huge" not in tight.engine.windows
        for one, other in zip(expected, found, strict=True):
            assert other.error is None
            assert one.tokens == other.tokens
            assert_equal(tight.logits[one.stream, "q"], free.logits[one.stream, "q"], f"{one.stream} in step {step}")
        tight.engine.drop("huge")
        assert last == []
    assert refused >= 4
    assert any(outcome.tokens.refreshed > outcome.tokens.kept for outcome in found)


def test_streams_with_a_window_go_before_new_ones(case: Case) -> None:
    rng = np.random.default_rng(2)
    run = Run(case, memory_bytes=memory_of(case, pages_of(case, 3)))
    run.step(case.frames(rng, range(2)), 0, stream="old")
    work = [StreamWork("new", case.frames(rng, range(2)), 0, [QUESTION])]
    work += [StreamWork("old", case.frames(rng, [2]), 0, [QUESTION])]
    new, old = run.engine.step(work)
    assert new.error is not None
    assert new.error.code == "no-room"
    assert "MiB" in new.error.text
    assert new.answers == ()
    assert old.error is None
    run.engine.drop("old")
    (again,) = run.engine.step(work[:1])
    assert again.error is None  # its frames are anchors: everything is kept
    run.engine.check_integrity()


def test_a_window_too_large_for_the_pool_is_given_up_and_starts_again_at_an_anchor(case: Case) -> None:
    rng = np.random.default_rng(3)
    run = Run(case, memory_bytes=memory_of(case, pages_of(case, 3)))
    run.step(case.frames(rng, range(2), anchors=1), 0)
    (outcome,) = run.engine.step([StreamWork("camera", case.frames(rng, range(2, 6), anchors=1), 0, [QUESTION])])
    assert outcome.error is not None
    assert outcome.error.code == "no-room"
    assert run.engine.lost == {"camera"}
    assert run.engine.pool_use.held == 0
    pruned = case.frames(rng, range(6, 8), 0.5)
    (outcome,) = run.engine.step([StreamWork("camera", pruned, 6, [QUESTION])])
    assert outcome.error is not None
    assert outcome.error.code == "restarting"
    frames = [*case.frames(rng, [8], 0.5), *case.frames(rng, [9], anchors=1), *case.frames(rng, [10], 0.5)]
    got = run.step(frames, 8)
    assert run.outcome.restarted
    assert run.outcome.frames_seen == 2
    assert run.engine.lost == frozenset()
    fresh = Run(case)
    assert_equal(got, fresh.step(frames[1:], 8), "a window that begins at the anchor")
    assert not fresh.outcome.restarted
    run.step(case.frames(rng, [11], 0.5), 9)
    assert not run.outcome.restarted


def test_idle_streams_lose_their_windows_first_the_one_answered_longest_ago_at_the_head(case: Case) -> None:
    rng = np.random.default_rng(4)
    now = 0.0
    run = Run(case, memory_bytes=memory_of(case, pages_of(case, 2, windows=3)), idle_after_s=10, clock=lambda: now)
    for stream in ("a", "b", "c"):
        run.step(case.frames(rng, range(2), anchors=1), 0, stream=stream)
        now += 1
    (refused,) = run.engine.step([StreamWork("d", case.frames(rng, range(2)), 0, [QUESTION])])
    assert refused.error is not None  # all others are live
    now = 8.0
    run.step([], 0, stream="a")
    now = 13.0
    run.step(case.frames(rng, range(2)), 0, stream="d")
    assert list(run.engine.windows) == ["a", "c", "d"]
    assert run.engine.lost == {"b"}
    run.step(case.frames(rng, range(2)), 0, stream="e")
    assert list(run.engine.windows) == ["a", "d", "e"]
    (refused,) = run.engine.step([StreamWork("f", case.frames(rng, range(2)), 0, [QUESTION])])
    assert refused.error is not None
    assert refused.error.code == "no-room"
    assert list(run.engine.windows) == ["a", "d", "e"]


def test_questions_that_do_not_fit_together_are_asked_in_rounds(case: Case) -> None:
    rng = np.random.default_rng(5)
    frames = case.frames(rng, range(2))
    questions = [Question(f"q{n}", f"Is it {n}?", "yes-no") for n in range(9)]
    questions[4] = Question("q4", SECOND.prompt, "text", max_tokens=5)
    questions[7] = Question("q7", "Which?", "choice", labels=("car", "car park", "no"))
    roomy, tight = Run(case), Run(case, memory_bytes=memory_of(case, pages_of(case, 2) + 6))
    assert_equal(tight.step(frames, 0, questions), roomy.step(frames, 0, questions), "one after another")
    for one, other in zip(roomy.outcome.answers, tight.outcome.answers, strict=True):
        assert one.text == other.text
        assert other.error is None
    assert tight.outcome.flops == roomy.outcome.flops
    small = Run(case, batch_tokens=16)
    assert_equal(small.step(frames, 0, questions), roomy.step([], 0, questions), "in forwards of 16 tokens")


def test_a_question_without_room_is_set_aside_and_the_others_are_answered(case: Case) -> None:
    rng = np.random.default_rng(6)
    frames = case.frames(rng, range(2))
    long = Question("long", "Is it so? " * 80, "text", max_tokens=1024)
    run = Run(case, memory_bytes=memory_of(case, pages_of(case, 2) + 2))
    (outcome,) = run.engine.step([StreamWork("camera", frames, 0, [long, QUESTION])])
    first, second = outcome.answers
    assert first.error is not None
    assert first.error.code == "no-room"
    assert first.text == ""
    assert second.error is None
    alone = Run(case)
    assert_equal(run.logits["camera", "q"], alone.step(frames, 0)[0], "the other question")
    assert_equal(run.step([], 0), alone.step([], 0), "the window afterwards")


def test_a_window_or_a_question_with_more_positions_than_the_model_has_is_set_aside(case: Case) -> None:
    rng = np.random.default_rng(7)
    run = Run(case, position_limit=200)
    work = [StreamWork("wide", case.frames(rng, range(40)), 0, [QUESTION])]
    long = Question("long", "Is it so? " * 80, "yes-no")
    work += [StreamWork("camera", case.frames(rng, range(2)), 0, [long, QUESTION])]
    wide, camera = run.engine.step(work)
    assert wide.error is not None
    assert wide.error.code == "no-room"
    assert "200" in wide.error.text
    assert [answer.error and answer.error.code for answer in camera.answers] == ["question", None]
    assert "'long'" in str(camera.answers[0].error)


@properties
@given(seed=st.integers(0, 9999), pages=st.integers(8, 60), refresh=st.sampled_from(["none", "anchors", "all"]))
def test_7_pages_are_conserved_whatever_happens(case: Case, seed: int, pages: int, refresh: str) -> None:
    """Streams arrive, grow, end, are refused and bring invalid frames: free and held pages always add up to all pages."""
    rng = np.random.default_rng(seed)
    now = 0.0
    run = Run(case, refresh, memory_bytes=memory_of(case, pages) * 4, idle_after_s=3, clock=lambda: now)
    run.engine.pool.take(run.engine.pool.free - pages)
    held = run.engine.pool.pages - pages
    codes = set()
    for step in range(8):
        now += 1
        work = []
        for stream in rng.permutation(["a", "b", "c", "d"])[: rng.integers(1, 5)]:
            frames = case.frames(
                rng, range(2 * step, 2 * step + 2), float(rng.random()), anchors=int(rng.integers(0, 4))
            )
            if frames[0].patches is not None and rng.random() < 0.1:
                object.__setattr__(frames[0], "patches", frames[0].patches[:, :-1])
            work.append(StreamWork(str(stream), frames, max(0, 2 * step - 4), [QUESTION, THIRD]))
        if rng.random() < 0.2:
            run.engine.drop(str(rng.choice(["a", "b", "c", "d"])))
        outcomes = run.engine.step(work)
        codes |= {outcome.error.code for outcome in outcomes if outcome.error}
        for window in run.engine.windows.values():
            window.check_integrity()
        assert (
            run.engine.pool.free + sum(len(w.pages) for w in run.engine.windows.values()) + held
            == run.engine.pool.pages
        )
        pages_held = [page for window in run.engine.windows.values() for page in window.pages]
        assert len(set(pages_held)) == len(pages_held)
    for stream in list(run.engine.windows):
        run.engine.drop(stream)
    assert run.engine.pool.free == pages
    assert codes <= {"no-room", "restarting", "failed"}
    assert torch.isfinite(run.engine.pool.keys.stored).all()
