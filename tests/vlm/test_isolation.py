"""A stream or question that cannot be computed carries the error; all others are answered as without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from codecflow.messages import Question
from codecflow.vlm.decoder import Packed
from codecflow.vlm.work import Frame, StreamOutcome, StreamWork

from .cases import Case
from .running import QUESTION, SECOND, THIRD, Run, assert_equal

CHOICE = Question("c", "Which?", "choice", labels=("car", "car park"))


@contextmanager
def broken(case: Case, name: str, check: Callable[..., None]) -> Iterator[None]:
    """The family's method `name` calls `check` with its arguments first."""
    original = getattr(case.family, name)

    def run(*arguments: Any) -> Any:
        check(*arguments)
        return original(*arguments)

    before = dict(vars(case.family))
    setattr(case.family, name, run)
    try:
        yield
    finally:
        vars(case.family).clear()
        vars(case.family).update(before)


def no_more_than(tokens: int) -> Callable[..., None]:
    """For more tokens, allocates more than any machine has, to raise torch's own error."""

    def check(packed: Packed, *_: object) -> None:
        if len(packed.embeds) > tokens:
            torch.empty(2**60, dtype=torch.uint8)

    return check


def codes(outcomes: list[StreamOutcome]) -> list[str | None]:
    return [outcome.error and outcome.error.code for outcome in outcomes]


def three(case: Case, share: float = 0.6) -> dict[str, list[Frame]]:
    rng = np.random.default_rng(0)
    return {stream: case.frames(rng, range(2), share) for stream in ("gate", "yard", "hall")}


def assert_others_as_alone(case: Case, run: Run, frames: dict[str, list[Frame]], outcomes: list[StreamOutcome]) -> None:
    answered = [outcome for outcome in outcomes if outcome.error is None]
    assert len(answered) >= 2
    for outcome in answered:
        alone = Run(case)
        expected = alone.step(frames[outcome.stream], 0, (QUESTION, SECOND, CHOICE), outcome.stream)
        got = torch.stack([run.logits[outcome.stream, q.id] for q in (QUESTION, SECOND, CHOICE)])
        assert_equal(got, expected, outcome.stream)
        assert [a.text for a in outcome.answers] == [a.text for a in alone.outcome.answers]
        assert outcome.tokens == alone.outcome.tokens
        assert outcome.flops == alone.outcome.flops
    run.engine.check_integrity()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: replace(frame, keep=np.ones(frame.keep.size + 1, bool)),
        lambda frame: replace(frame, patches=None),
        lambda frame: replace(frame, patches=frame.patches[:-1]),
        lambda frame: replace(frame, patches=frame.patches[:, :-1]),
    ],
    ids=["mask", "no patches", "too few patches", "smaller patches"],
)
def test_frames_that_cannot_be_fail_their_stream_alone(case: Case, spoil: Callable[[Frame], Frame]) -> None:
    frames = three(case)
    frames["yard"][1] = spoil(case.frames(np.random.default_rng(1), [1])[0])
    run = Run(case)
    outcomes = run.engine.step([StreamWork(s, f, 0, (QUESTION, SECOND, CHOICE)) for s, f in frames.items()])
    assert codes(outcomes) == [None, "failed", None]
    assert outcomes[1].answers == ()
    assert "\n" not in str(outcomes[1].error)
    assert run.engine.lost == {"yard"}
    assert_others_as_alone(case, run, frames, outcomes)


def test_a_picture_that_the_vit_fails_on_fails_its_stream_alone(case: Case) -> None:
    frames = three(case)
    assert frames["hall"][1].patches is not None
    frames["hall"][1].patches[:] = 255
    run = Run(case)

    def check(patches: Any) -> None:
        if bool((patches.pixels.flatten(1) == 255).all(1).any()):
            raise IndexError("a picture\nthat is too bright")

    with broken(case, "encode", check):
        outcomes = run.engine.step([StreamWork(s, f, 0, (QUESTION, SECOND, CHOICE)) for s, f in frames.items()])
    assert codes(outcomes) == [None, None, "failed"]
    assert outcomes[2].error is not None
    assert outcomes[2].error.text == "IndexError: a picture"
    assert_others_as_alone(case, run, frames, outcomes)


def test_a_question_that_cannot_be_computed_is_set_aside_alone(case: Case) -> None:
    """In the forward that computes it, and in the one that continues it."""
    frames = three(case)
    poison = Question("poison", "Is it Quetzalcoatl?", "yes-no")
    token = case.family.embed(torch.tensor(case.family.ids("Quetzalcoatl"))).sum(0)

    def check(packed: Packed, *_: object) -> None:
        embeds = packed.embeds
        length = len(case.family.ids("Quetzalcoatl"))
        windows = embeds.unfold(0, length, 1).sum(2) if len(embeds) >= length else embeds[:0]
        if len(windows) and bool(((windows - token).abs().amax(1) < 1e-5).any()):
            raise ValueError("a serpent")

    run = Run(case)
    questions = (QUESTION, poison, SECOND, CHOICE)
    work = [StreamWork(s, f, 0, questions if s == "yard" else (QUESTION, SECOND, CHOICE)) for s, f in frames.items()]
    with broken(case, "run_text", check):
        outcomes = run.engine.step(work)
    assert codes(outcomes) == [None] * 3
    failed = outcomes[1].answers[1]
    assert (failed.question, failed.text, failed.p_yes) == (poison, "", None)
    assert failed.error == ("failed", "ValueError: a serpent")
    others = [
        outcomes[0],
        replace(outcomes[1], answers=[a for a in outcomes[1].answers if a.error is None]),
        outcomes[2],
    ]
    assert_others_as_alone(case, run, frames, others)


def test_a_label_or_prompt_that_cannot_be_asked_is_the_questions_own_error(case: Case) -> None:
    frames = three(case)
    empty = Question("e", "Which?", "choice", labels=("a", "b"))
    object.__setattr__(empty, "labels", ("a", ""))  # as from a source without validation
    twice = Question("t", "Which?", "choice", labels=("a", "b"))
    object.__setattr__(twice, "labels", ("a", "a"))
    run = Run(case)
    (outcome,) = run.engine.step([StreamWork("gate", frames["gate"], 0, (empty, QUESTION, twice, SECOND, CHOICE))])
    assert outcome.error is None
    assert [a.error and a.error.code for a in outcome.answers] == ["question", None, "question", None, None]
    assert "'e'" in str(outcome.answers[0].error)
    assert "'t'" in str(outcome.answers[2].error)
    good = replace(outcome, answers=[a for a in outcome.answers if a.error is None])
    assert_others_as_alone(case, run, frames, [good, good])


@pytest.mark.parametrize("limit", [1000, 60])
def test_too_little_memory_to_compute_splits_the_batch(case: Case, limit: int) -> None:
    frames = three(case, 0.4)
    run = Run(case)
    with broken(case, "run_text", no_more_than(limit)):
        outcomes = run.engine.step([StreamWork(s, f, 0, (QUESTION, SECOND, CHOICE)) for s, f in frames.items()])
    assert codes(outcomes) == [None] * 3
    assert all(answer.error is None for outcome in outcomes for answer in outcome.answers)
    assert_others_as_alone(case, run, frames, outcomes)


def test_a_stream_that_does_not_fit_by_itself_is_out_of_memory_and_starts_again(case: Case) -> None:
    frames = three(case, 0.3)
    rng = np.random.default_rng(5)
    frames["yard"] = case.frames(rng, range(8))
    run = Run(case)
    work = [StreamWork(s, f, 0, (QUESTION, SECOND, CHOICE)) for s, f in frames.items()]
    with broken(case, "run_text", no_more_than(100)):
        outcomes = run.engine.step(work)
    assert codes(outcomes) == [None, "out-of-memory", None]
    assert_others_as_alone(case, run, frames, outcomes)
    pruned = StreamWork("yard", case.frames(rng, [8], 0.4), 4, (QUESTION,))
    assert codes(run.engine.step([pruned])) == ["restarting"]
    assert codes(run.engine.step([StreamWork("yard", case.frames(rng, [9], anchors=1), 4, (QUESTION,))])) == [None]


def test_many_questions_and_labels_are_computed_within_the_batch_limit(case: Case) -> None:
    rng = np.random.default_rng(6)
    frames = case.frames(rng, range(2), 0.5)
    labels = tuple(f"number {n}" for n in range(40))
    questions = [Question(f"q{n}", f"Is it {n}?", "yes-no") for n in range(60)]
    questions += [Question("c", "Which?", "choice", labels=labels), SECOND, THIRD]
    most = 0

    def check(packed: Packed, *_: object) -> None:
        nonlocal most
        most = max(most, len(packed.embeds))

    few, many = Run(case, batch_tokens=128), Run(case)
    with broken(case, "run_text", check):
        got = few.step(frames, 0, questions)
    assert most <= 128
    assert_equal(got, many.step(frames, 0, questions), "in small forwards")
    for one, other in zip(few.outcome.answers, many.outcome.answers, strict=True):
        assert one.text == other.text
        for label, p in (one.label_probabilities or {}).items():
            assert abs(p - (other.label_probabilities or {})[label]) < 1e-4
    assert few.outcome.flops == many.outcome.flops


def test_an_error_of_the_engines_own_leaves_no_page_behind(case: Case) -> None:
    run = Run(case)
    run.step(case.frames(np.random.default_rng(7), range(2)), 0)
    with (
        broken(case, "vision_cost", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt())),
        pytest.raises(KeyboardInterrupt),
    ):
        run.engine.step([StreamWork("camera", case.frames(np.random.default_rng(8), [2]), 0, [QUESTION])])
    assert run.engine.pool_use.held == 0
    run.engine.check_integrity()
