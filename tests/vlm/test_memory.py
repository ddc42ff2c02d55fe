"""Bounded memory: refused by name before anything is allocated, oldest frames first when a stream keeps too much."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codecflow.errors import ModelError
from codecflow.messages import Question
from codecflow.vlm.work import StreamRefusedError, StreamWork

from .cases import Case
from .oracle import Oracle
from .running import QUESTION, THIRD, Run, assert_equal


def test_a_stream_that_does_not_fit_is_refused_by_name_and_the_others_go_on(case: Case) -> None:
    rng = np.random.default_rng(0)
    alone = Run(case)
    frames = case.frames(rng, range(2))
    expected = alone.step(frames, 0, stream="gate")
    need = alone.engine.windows["gate"].buffers.nbytes
    engine = (run := Run(case, memory_bytes=need + need // 2)).engine
    work = [StreamWork(stream, frames, 0, [QUESTION]) for stream in ("gate", "yard")]
    with pytest.raises(StreamRefusedError, match=r"'yard'.*MiB") as refused:
        engine.step(work)
    assert isinstance(refused.value, ModelError)
    assert refused.value.stream == "yard"
    assert engine.memory.used == need
    engine.step([one for one in work if one.stream != refused.value.stream])
    assert_equal(run.logits["gate", QUESTION.id], expected[0], "the stream that fits")
    engine.drop("gate")
    assert engine.memory.used == 0
    engine.step(work[1:])
    assert list(engine.memory_by_stream) == ["yard"]
    assert engine.memory_by_stream["yard"] >= need


def test_the_oldest_frames_leave_when_more_is_kept_than_a_stream_may_hold(case: Case) -> None:
    rng = np.random.default_rng(1)
    oracle = Oracle(case)
    one = len(case.family.frame_text(9, 4.5)[0]) + len(case.family.frame_text(9, 4.5)[1]) + case.tokens
    run = Run(case, kv_tokens=3 * one + one // 2)
    for index in range(7):
        new = case.frames(rng, [index])
        got = run.step(new, 0, (QUESTION, THIRD))
        first = max(0, index - 2)
        assert_equal(got, oracle.step(new, first, (QUESTION.prompt, THIRD.prompt)), f"frame {index}")
        assert run.outcome.frames_seen == index + 1 - first
    with pytest.raises(StreamRefusedError, match=r"'camera'.*kv tokens"):
        run.step(case.frames(rng, range(7, 12)), 0)


def test_buffers_grow_for_long_questions_within_the_limit_only(case: Case) -> None:
    rng = np.random.default_rng(2)
    long = Question("long", "Is it so? " * 80, "text", max_tokens=1024)
    plain = Run(case)
    plain.step(frames := case.frames(rng, range(2)), 0)
    limit = plain.engine.windows["camera"].buffers.nbytes
    tight = Run(case, memory_bytes=limit)
    tight.step(frames, 0)
    before = tight.engine.windows["camera"].buffers.keys.clone()
    with pytest.raises(StreamRefusedError, match="'camera'"):
        tight.step([], 0, [long] * 3)
    assert torch.equal(before, tight.engine.windows["camera"].buffers.keys)
    assert_equal(tight.step([], 0), plain.step([], 0), "after a refused question")
    plain.step([], 0, [Question("long", long.prompt, "yes-no")] * 3)
    assert plain.engine.windows["camera"].buffers.nbytes > limit
    assert_equal(tight.step([], 0), plain.step([], 0), "after the buffers have grown")


def test_a_window_with_more_positions_than_the_model_has_is_refused(case: Case) -> None:
    run = Run(case, position_limit=60, window_frames=40)
    with pytest.raises(StreamRefusedError, match=r"'camera'.*60"):
        run.step(case.frames(np.random.default_rng(3), range(40)), 0)


def test_a_buffer_is_used_over_and_over(case: Case) -> None:
    """Where a buffer ends, the live region is moved to its front: the same as in a buffer that never ends."""
    rng = np.random.default_rng(4)
    roomy, tight = Run(case, window_frames=100), Run(case, window_frames=3)
    moves, before, index = 0, 0, 0
    while moves < 2:
        assert index < 100, "the buffer's end was never reached"
        new, first = case.frames(rng, [index], 0.9), max(0, index - 2)
        got = tight.step(new, first, (QUESTION, THIRD))
        assert_equal(got, roomy.step(new, first, (QUESTION, THIRD)), f"frame {index}, moved {moves} times")
        window = tight.engine.windows["camera"]
        moves, before, index = moves + (window.start < before), window.start, index + 1
    assert roomy.engine.windows["camera"].start > window.start
