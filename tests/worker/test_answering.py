"""The engine's thread: a stream that fails is set aside with backoff, the others are answered in the same round."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np

from codecflow.messages import Flops, Question, ResultError, StreamState, Tokens
from codecflow.vlm.work import Answer, Failure, Frame, Pace, StreamOutcome, StreamWork
from codecflow.worker.answering import Answered, Answering, Provenance
from codecflow.worker.window_plan import WindowPlan
from codecflow.worker.windows import Step, Window

from .running import until

PLAN = WindowPlan.of(4, 2, 2)
ASKED = Question("person", "Is a person in view?", "yes-no")


class Engine:
    """Replaces a model: answers "yes", or does what `how` says for the streams listed there."""

    def __init__(self, refresh: str = "none") -> None:
        self.refresh = SimpleNamespace(name=refresh)
        self.same = False
        self.work: list[StreamWork] = []
        self.how: dict[str, Exception | Failure | str] = {}
        self.lost: frozenset[str] = frozenset()
        self.steps: list[list[str]] = []
        self.dropped: list[str] = []
        self.memory_by_stream: dict[str, int] = {}
        self.pace = Pace()

    def drop(self, stream: str) -> None:
        self.dropped.append(stream)
        self.memory_by_stream.pop(stream, None)

    @property
    def asked(self) -> list[Sequence[Question]]:
        return [work.questions for work in self.work]

    def unchanged(self, work: StreamWork) -> bool:
        return self.same

    def step(self, work: Sequence[StreamWork]) -> list[StreamOutcome]:
        self.work += work
        self.steps.append([one.stream for one in work])
        return [self._outcome(one) for one in work]

    def _outcome(self, work: StreamWork) -> StreamOutcome:
        how = self.how.get(work.stream)
        if isinstance(how, Exception):
            raise how
        self.memory_by_stream[work.stream] = 1000
        if how == "evicts":
            self.lost |= {"idle"}
        failure = how if isinstance(how, Failure) else None
        answers = [] if failure else [Answer(question, "yes", p_yes=1.0) for question in work.questions]
        return StreamOutcome(work.stream, answers, Tokens(1, 1, 1, 0), Flops(1, 1, 1), len(work.frames), error=failure)


class Rounds:
    """Answers one window of some streams at a time."""

    def __init__(self, refresh: str = "none", reuse_slots: int = 0) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.engine = Engine(refresh)
        engine: Any = self.engine
        self.answering = Answering(
            engine,
            PLAN,
            Provenance("all", "none", False),
            self.said.append,
            clock=lambda: self.now,
            reuse_slots=reuse_slots,
        )
        self._index = -1

    def step(self, stream: str, *, epoch: int = 1, ended: bool = False, error: ResultError | None = None) -> Step:
        frame = Frame(4 * self._index, 0.0, np.ones(4, bool), None, (8, 8), anchor=True)
        window = Window(stream, epoch, self._index, (frame,), 0, 4, error=error)
        return Step(StreamState(stream, epoch, Fraction(2 * self._index), PLAN.grid, 0, 0, ended), window)

    def answer(self, *streams: str, **how: Any) -> dict[str, Answered]:
        self._index += 1
        steps = [self.step(stream, **how) for stream in streams]
        answered = self.answering.begin(steps, lambda stream: (ASKED,)).result(60)
        return {one.step.state.stream: one for one in answered}


def codes(answered: dict[str, Answered]) -> dict[str, str]:
    """Of the one result of each stream: its answer, or the code of its error."""
    results = {stream: one.results for stream, one in answered.items()}
    assert {len(found) for found in results.values()} == {1}
    return {stream: found[0].error.code if found[0].error else found[0].answer for stream, found in results.items()}


def test_a_stream_that_raises_is_set_aside_with_backoff_and_the_others_are_answered() -> None:
    rounds = Rounds()
    rounds.engine.how = {"bad": RuntimeError("CUDA error: an illegal memory access")}
    assert codes(rounds.answer("a", "bad", "b")) == {"a": "yes", "bad": "failed", "b": "yes"}
    assert rounds.engine.steps == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]
    assert rounds.answering.take_lost() == {"bad"}
    tries = 1
    for second in range(1, 40):
        rounds.now = float(second)
        before = len(rounds.engine.steps)
        assert codes(rounds.answer("a", "bad")) == {"a": "yes", "bad": "failed"}
        tries += ["bad"] in rounds.engine.steps[before:]
    assert tries == 6  # after 1, 2, 4, 8 and 16 s
    assert rounds.said == [
        "stream 'bad': RuntimeError: CUDA error: an illegal memory access; "
        "its windows get an error result until it recovers"
    ]
    rounds.engine.how = {}
    rounds.now = 100.0
    assert codes(rounds.answer("a", "bad")) == {"a": "yes", "bad": "yes"}
    assert rounds.said[1:] == ["stream 'bad' is answered again"]


def test_what_the_engine_refuses_is_an_error_result_and_begins_again_at_an_anchor() -> None:
    rounds = Rounds()
    rounds.engine.how = {"large": Failure("no-room", "it does not fit")}
    for _ in range(3):
        found = rounds.answer("a", "large")
        assert codes(found) == {"a": "yes", "large": "no-room"}
        assert found["large"].error == ResultError("no-room", "it does not fit")
        assert found["large"].results[0].frames.expected == 4
        assert rounds.answering.take_lost() == {"large"}
    assert len(rounds.said) == 1
    rounds.engine.how = {"large": Failure("restarting", "its window was lost")}
    assert codes(rounds.answer("large")) == {"large": "restarting"}
    assert len(rounds.said) == 1  # recovery is not reported


def test_a_window_with_an_error_does_not_reach_the_engine() -> None:
    rounds = Rounds()
    error = ResultError("signal-interval", "its signal comes every 0.3 s")
    assert codes(rounds.answer("a", error=error)) == {"a": "signal-interval"}
    assert rounds.engine.steps == []


def test_a_stream_that_is_evicted_while_others_are_answered_begins_again_at_an_anchor() -> None:
    rounds = Rounds()
    rounds.engine.how = {"a": "evicts"}
    assert codes(rounds.answer("a")) == {"a": "yes"}
    assert rounds.answering.take_lost() == {"idle"}
    rounds.answer("a")
    assert rounds.answering.take_lost() == set()


def test_a_stream_is_dropped_when_its_epoch_ends_or_another_begins() -> None:
    rounds = Rounds()
    rounds.answer("a", epoch=1)
    rounds.engine.dropped.clear()
    rounds.answer("a", epoch=2)
    assert rounds.engine.dropped == ["a"]
    assert rounds.answering.kv_bytes == {"a": 1000}
    rounds.answer("a", epoch=2, ended=True)
    assert rounds.engine.dropped == ["a", "a"]
    assert rounds.answering.kv_bytes == {}


def test_an_engine_that_cannot_drop_a_stream_says_so(monkeypatch: Any) -> None:
    rounds = Rounds()

    def broken(stream: str) -> None:
        raise RuntimeError("no such pages")

    monkeypatch.setattr(rounds.engine, "drop", broken)
    rounds.answering.drop("a")
    until(lambda: bool(rounds.said), what="a line")
    assert rounds.said == ["the engine could not drop a stream: RuntimeError: no such pages"]


def results_of(rounds: Rounds, questions: tuple[Question, ...], **how: Any) -> list[Any]:
    """Results by question of the next window of stream "a", whose answers are repeated for 8 slots at most."""
    rounds._index += 1
    done = rounds.answering.begin([rounds.step("a", **how)], lambda stream: questions).result(60)
    return done[0].results


def test_an_unchanged_window_is_answered_without_the_model_for_a_while() -> None:
    rounds, other = Rounds(reuse_slots=16), Question("car", "Is a car in view?", "yes-no")
    rounds.engine.same = True
    found = [results_of(rounds, (ASKED,))[0] for _ in range(6)]  # windows end at slots 4, 8, 12, 16, 20, 24
    assert [one.reused_from for one in found] == [None, 0, 0, None, 3, 3]
    assert [one.window for one in found] == list(range(6))
    assert {one.answer for one in found} == {"yes"}
    assert [(one.flops.llm, one.flops.full) for one in found[:2]] == [(1, 1), (0, 1)]
    assert [len(asked) for asked in rounds.engine.asked] == [1, 0, 0, 1, 0, 0]
    # A new question is asked, as is one with a changed text; the old one is not.
    both = results_of(rounds, (other, ASKED))
    assert [(one.question, one.reused_from) for one in both] == [("car", None), ("person", 3)]
    assert rounds.engine.asked[-1] == (other,)


def test_a_window_that_changes_ends_or_fails_is_computed() -> None:
    rounds = Rounds(reuse_slots=1000)
    rounds.engine.same = True
    results_of(rounds, (ASKED,))
    assert results_of(rounds, (ASKED,))[0].reused_from == 0
    rounds.engine.same = False
    assert results_of(rounds, (ASKED,))[0].reused_from is None
    rounds.engine.same = True
    assert results_of(rounds, (ASKED,))[0].reused_from == 2
    assert results_of(rounds, (ASKED,), epoch=2)[0].reused_from is None
    rounds.engine.how = {"a": Failure("no-room", "it does not fit")}
    assert results_of(rounds, (ASKED,), epoch=2)[0].error.code == "no-room"
    rounds.engine.how = {}
    assert results_of(rounds, (ASKED,), epoch=2)[0].reused_from is None
    rounds.answering.drop("a")
    assert results_of(rounds, (ASKED,), epoch=2)[0].reused_from is None


def test_nothing_is_repeated_unless_it_is_wanted_nor_from_scratch() -> None:
    for refresh, slots in (("none", 0), ("all", 1000)):
        rounds = Rounds(refresh, slots)
        rounds.engine.same = True
        assert [results_of(rounds, (ASKED,))[0].reused_from for _ in range(3)] == [None] * 3


def test_frames_that_have_left_before_they_were_handed_out_go_first_and_cost_what_they_cost() -> None:
    rounds = Rounds(reuse_slots=1000)
    rounds.engine.same = True
    results_of(rounds, (ASKED,))
    rounds._index = 5  # starts at slot 16
    frames = tuple(Frame(index, index / 2, np.ones(4, bool), None, (8, 8)) for index in (11, 12, 17, 20))
    window = Window("a", 1, 5, frames, 0, 8)
    step = Step(StreamState("a", 1, Fraction(12), PLAN.grid, 0, 0), window)
    (result,) = rounds.answering.begin([step], lambda stream: (ASKED,)).result(60)[0].results
    assert [(work.first, [f.index for f in work.frames], len(work.questions)) for work in rounds.engine.work[-2:]] == [
        (11, [11, 12], 0),
        (16, [17, 20], 1),
    ]
    assert result.reused_from is None
    assert (result.flops.llm, result.flops.full, result.frames.seen) == (2, 1, 2)
