"""Turns to results: the engine, in a thread of its own, so that reading and decoding go on while it computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass

from codecflow.messages import Flops, Frames, Question, Result, ResultError
from codecflow.vlm.engine import Engine
from codecflow.vlm.work import StreamOutcome, StreamWork

from .turns import Turn
from .windows import WindowPlan


@dataclass(frozen=True, slots=True)
class Described:
    """What every result says of how it came about."""

    keep: str
    model: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """A turn with its results, none where it has no window or nothing is asked. `refused`: the stream found no room."""

    turn: Turn
    results: list[Result]
    refused: bool = False


class Answering:
    """Runs one engine. One step at a time is under way; `drop` waits for it.

    `say` is called, from the engine's thread, with a line when a stream is refused and when it fits again.
    """

    def __init__(self, engine: Engine, plan: WindowPlan, described: Described, say: Callable[[str], None]) -> None:
        self._engine, self._plan, self._described, self._say = engine, plan, described, say
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._epochs: dict[str, int] = {}
        self._refused: set[str] = set()

    def begin(self, turns: Sequence[Turn], questions: Callable[[str], tuple[Question, ...]]) -> Future[list[Answered]]:
        """Answer all turns as one batch: the questions are those of this moment."""
        asked = [questions(turn.stream.name) for turn in turns]
        return self._thread.submit(self._answer, turns, asked)

    def drop(self, stream: str) -> None:
        """Forget what the engine holds of a stream, once the step under way is done."""
        self._thread.submit(self._forget, stream)

    def close(self) -> None:
        """Waits for the step under way."""
        self._thread.shutdown(cancel_futures=True)

    def _forget(self, stream: str) -> None:
        self._epochs.pop(stream, None)
        self._engine.drop(stream)

    def _answer(self, turns: Sequence[Turn], asked: Sequence[tuple[Question, ...]]) -> list[Answered]:
        work: dict[str, StreamWork] = {}
        for turn, questions in zip(turns, asked, strict=True):
            name = turn.stream.name
            if turn.window is not None:
                if self._epochs.get(name) != turn.epoch:  # slots count anew
                    self._forget(name)
                    self._epochs[name] = turn.epoch
                work[name] = StreamWork(name, turn.window.frames, self._plan.first(turn.window.index), questions)
        outcomes = self._step(work)
        answered = []
        for turn in turns:
            outcome = outcomes.get(turn.stream.name)
            results = [] if outcome is None else self._results(turn, outcome)
            answered.append(Answered(turn, results, refused=turn.window is not None and outcome is None))
        return answered

    def _step(self, work: dict[str, StreamWork]) -> dict[str, StreamOutcome]:
        """Of all streams that could be answered."""
        outcomes = self._engine.step(list(work.values())) if work else []
        for outcome in outcomes:
            stream, error = outcome.stream, outcome.error
            if error is None and stream in self._refused:
                self._refused.discard(stream)
                self._say(f"stream {stream!r} is answered again")
            elif error is not None and stream not in self._refused:
                self._refused.add(stream)
                reason = "does not fit" if error.code == "no-room" else f"is set aside ({error.code})"
                self._say(f"stream {stream!r} {reason}: {error.text}; its windows stay unanswered until that is over")
        return {outcome.stream: outcome for outcome in outcomes if outcome.error is None}

    def _results(self, turn: Turn, outcome: StreamOutcome) -> list[Result]:
        window, plan = turn.window, self._plan
        assert window is not None
        share = max(1, len(outcome.answers))
        flops = Flops(outcome.flops.vit // share, outcome.flops.llm // share, outcome.flops.full // share)
        seconds = {stage: round(s / share, 6) for stage, s in {**window.seconds, **outcome.seconds}.items()}
        now = int(time.time() * 1000)
        return [
            Result(
                stream=turn.stream.name,
                epoch=turn.epoch,
                window=window.index,
                start_s=float(plan.time(plan.first(window.index))),
                end_s=float(plan.time(plan.end(window.index))),
                captured_at_ms=window.captured_at_ms,
                answered_at_ms=now,
                question=answer.question.id,
                prompt=answer.question.prompt,
                type=answer.question.type,
                answer=answer.text,
                p_yes=answer.p_yes,
                label_probabilities=answer.label_probabilities,
                frames=Frames(plan.expected(window.index), outcome.frames_seen),
                tokens=outcome.tokens,
                flops=flops,
                seconds=seconds,
                keep=self._described.keep,
                refresh=self._engine.refresh.name,
                model=self._described.model,
                trained=self._described.trained,
                restarted=outcome.restarted or (window.rebuilt and self._engine.refresh.name != "all"),
                error=None if answer.error is None else ResultError(*answer.error),
            )
            for answer in outcome.answers
        ]


def wait(future: Future[list[Answered]], timeout_s: float) -> bool:
    """Whether the step is done within `timeout_s` seconds."""
    return bool(wait_for([future], timeout_s).done)
