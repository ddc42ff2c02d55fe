"""Windows to results. The engine runs in its own thread, so that reading and decoding continue while it computes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Protocol

from codecflow.logs import Notice
from codecflow.messages import Event, Flops, Frames, Question, Result, ResultError, Tokens
from codecflow.vlm.families import Family
from codecflow.vlm.refresh import Refresh
from codecflow.vlm.work import Answer, Failure, Pace, StreamOutcome, StreamWork

from .summary import BusyTime
from .window_plan import WindowPlan
from .windows import Step, Window


class WindowEngine(Protocol):
    """The part of `codecflow.vlm.engine.Engine` that is used."""

    @property
    def family(self) -> Family: ...

    @property
    def refresh(self) -> Refresh: ...

    @property
    def memory_by_stream(self) -> Mapping[str, int]: ...

    @property
    def lost(self) -> frozenset[str]: ...

    @property
    def pace(self) -> Pace: ...

    def unchanged(self, work: StreamWork) -> bool: ...

    def step(self, work: Sequence[StreamWork]) -> list[StreamOutcome]: ...

    def drop(self, stream: str) -> None: ...


_NOTHING = Tokens(0, 0, 0, 0)
_LONGEST_RETRY_S = 300.0
_logger = logging.getLogger("codecflow.worker")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Provenance fields common to all results."""

    keep: str
    model: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """A step with its results: one per question, none if it has no window or no questions are configured. `error`: why the
    window was not answered. `events`: the events that its rules produce."""

    step: Step
    results: list[Result]
    error: ResultError | None = None
    events: tuple[Event, ...] = ()


def _with_earlier_cost(outcome: StreamOutcome, spent: Mapping[str, StreamOutcome]) -> StreamOutcome:
    """The outcome, plus the FLOPs and seconds already spent on the same stream."""
    before = spent.get(outcome.stream)
    if before is None:
        return outcome
    flops = replace(outcome.flops, vit=outcome.flops.vit + before.flops.vit, llm=outcome.flops.llm + before.flops.llm)
    seconds = Counter(outcome.seconds)
    seconds.update(before.seconds)
    return replace(outcome, flops=flops, seconds=dict(seconds))


@dataclass(slots=True)
class _FailedStream:
    """A stream that failed in the engine, and when it is retried."""

    error: ResultError
    until: float
    next_s: float


class Answering:
    """Runs one engine. One batch at a time is in progress; `drop` waits for it.

    `reuse_slots`: while a stream's window is unchanged, its answer is repeated without running the model, up to the next
    window that ends at or after a multiple of this many slots; 0: never. A window is unchanged while it holds the same
    visual tokens, in frames or in the background. Under refresh `all` nothing is repeated.

    `notice` is called, from the engine's thread, with a line when a stream cannot be answered and when it recovers.
    """

    def __init__(
        self,
        engine: WindowEngine,
        plan: WindowPlan,
        provenance: Provenance,
        notice: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        reuse_slots: int = 0,
    ) -> None:
        self.kv_bytes: dict[str, int] = {}
        """Bytes of keys and values held per stream, after the last batch."""
        self.time = BusyTime()
        """Busy time of batches."""
        self.batches = 0
        self._engine, self._plan, self._provenance, self._notice, self._clock = engine, plan, provenance, notice, clock
        self._reuse_slots = 0 if engine.refresh.name == "all" else reuse_slots
        self._repeatable: dict[str, dict[Question, Result]] = {}  # computed for the tokens that the window still holds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._epochs: dict[str, tuple[int, int]] = {}  # epoch, and slot before which nothing may be held
        self._failed: dict[str, _FailedStream] = {}
        self._reported: dict[str, str] = {}
        self._lost: SimpleQueue[str] = SimpleQueue()

    def begin(self, steps: Sequence[Step], questions: Callable[[str], tuple[Question, ...]]) -> Future[list[Answered]]:
        """Answer all steps as one batch, at most one per stream, with the questions that are current now."""
        questions_of_steps = [questions(step.state.stream) for step in steps]
        return self._thread.submit(self._answer, steps, questions_of_steps)

    def drop(self, stream: str) -> None:
        """Discard what the engine holds of a stream, once the batch in progress is done."""
        self._thread.submit(self._drop_stream, stream).add_done_callback(self._report)

    @property
    def pace(self) -> Pace:
        return self._engine.pace

    def take_lost(self) -> set[str]:
        """Streams whose window the engine has lost since the last call: refused, evicted, failed. Their next frame must be
        kept whole."""
        lost = set()
        while not self._lost.empty():
            lost.add(self._lost.get())
        return lost

    def close(self) -> None:
        """Waits for the batch in progress."""
        self._thread.shutdown(cancel_futures=True)

    def _report(self, done: Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._notice(f"the engine could not drop a stream: {type(error).__name__}: {error}")

    def _drop_stream(self, stream: str) -> None:
        self._epochs.pop(stream, None)
        self._failed.pop(stream, None)
        self._reported.pop(stream, None)
        self._repeatable.pop(stream, None)
        self._engine.drop(stream)
        self.kv_bytes = dict(self._engine.memory_by_stream)

    def _answer(self, steps: Sequence[Step], questions_of_steps: Sequence[tuple[Question, ...]]) -> list[Answered]:
        with self.time:
            self.batches += 1
            work: list[StreamWork] = []
            older: dict[str, StreamWork] = {}
            repeated: dict[str, dict[Question, Result]] = {}
            for step, questions in zip(steps, questions_of_steps, strict=True):
                window = step.window
                if window is None or window.error is not None or self._awaits_retry(window.stream):
                    continue
                stream, first = window.stream, max(self._plan.first(window.index), window.since)
                start = window.epoch, window.since
                if self._epochs.get(stream) != start:  # slots restart at 0, or what is held may be hidden now
                    self._engine.drop(stream)
                    self._repeatable.pop(stream, None)
                    self._epochs[stream] = start
                before = [frame for frame in window.frames if frame.index < first]
                if before:
                    older[stream] = StreamWork(stream, before, before[0].index)
                one = StreamWork(stream, window.frames[len(before) :], first, questions)
                repeated[stream] = self._repeat(window, one, bool(before))
                to_answer = tuple(question for question in questions if question not in repeated[stream])
                work.append(replace(one, questions=to_answer))
            outcomes = self._step(work, older)
            answered = [
                self._answered(step, questions, outcomes.get(step.state.stream), repeated.get(step.state.stream, {}))
                for step, questions in zip(steps, questions_of_steps, strict=True)
            ]
            for step in steps:
                if step.state.ended and self._epochs.get(step.state.stream, (-1, 0))[0] <= step.state.epoch:
                    self._drop_stream(step.state.stream)
            self.kv_bytes = dict(self._engine.memory_by_stream)
            return answered

    def _repeat(self, window: Window, work: StreamWork, changed: bool) -> dict[Question, Result]:
        """Repeated results of a window, by question."""
        if not self._reuse_slots or changed or not self._engine.unchanged(work):
            self._repeatable.pop(window.stream, None)
            return {}
        kept = self._repeatable.get(window.stream, {})
        period = self._plan.end(window.index) // self._reuse_slots
        return {
            question: kept[question]
            for question in work.questions
            if question in kept and self._plan.end(kept[question].window) // self._reuse_slots == period
        }

    def _step(self, work: list[StreamWork], older: Mapping[str, StreamWork]) -> dict[str, StreamOutcome | ResultError]:
        """The engine's outcomes. The engine does not raise because of one stream; if it does anyway, each stream is tried
        alone, and those that fail again are set aside. `older`: frames that have already left the window, by stream; they
        are processed first and become background."""
        if not work:
            return {}
        before, pace = self._engine.lost, self._engine.pace
        pace.begin()
        try:
            first = [older[one.stream] for one in work if one.stream in older]
            spent = {outcome.stream: outcome for outcome in self._engine.step(first)} if first else {}
            outcomes = {outcome.stream: _with_earlier_cost(outcome, spent) for outcome in self._engine.step(work)}
            for stream in self._engine.lost - before:  # for example evicted
                self._lost.put(stream)
            return dict(outcomes)
        except Exception as error:  # no error may stop the other streams
            _logger.debug("a batch of %d streams has failed", len(work), exc_info=True)
            if len(work) > 1:
                found: dict[str, StreamOutcome | ResultError] = {}
                for one in work:
                    self._engine.drop(one.stream)  # it may hold half of the batch
                for one in work:
                    found |= self._step([one], older)
                return found
            self._engine.drop(work[0].stream)
            return {work[0].stream: ResultError("failed", f"{type(error).__name__}: {error}")}
        finally:
            pace.end()

    def _awaits_retry(self, stream: str) -> bool:
        failed = self._failed.get(stream)
        return failed is not None and self._clock() < failed.until

    def _answered(
        self,
        step: Step,
        questions: tuple[Question, ...],
        outcome: StreamOutcome | ResultError | None,
        repeated: Mapping[Question, Result],
    ) -> Answered:
        window = step.window
        if window is None:
            return Answered(step, [])
        stream = window.stream
        if window.error is not None:
            return Answered(step, self._errors(window, questions, window.error), window.error)
        if outcome is None:  # set aside
            error = self._failed[stream].error
            return Answered(step, self._errors(window, questions, error), error)
        if isinstance(outcome, StreamOutcome) and outcome.error is None:
            self._failed.pop(stream, None)
            if self._reported.pop(stream, None) is not None:
                self._notice(Notice(f"stream {stream!r} is answered again", **_place(window)))
            return Answered(step, self._results(window, questions, outcome, repeated))
        error = outcome if isinstance(outcome, ResultError) else ResultError(*(outcome.error or ("failed", "")))
        if error.code == "failed":
            before = self._failed.get(stream)
            next_s = 1.0 if before is None else min(2 * before.next_s, _LONGEST_RETRY_S)
            self._failed[stream] = _FailedStream(error, self._clock() + next_s, next_s)
        if error.code != "restarting" and self._reported.get(stream) != error.code:
            self._reported[stream] = error.code
            line = f"stream {stream!r}: {error.text}; its windows get an error result until it recovers"
            self._notice(Notice(line, **_place(window)))
        self._lost.put(stream)
        self._repeatable.pop(stream, None)
        return Answered(step, self._errors(window, questions, error), error)

    def _results(
        self,
        window: Window,
        questions: Sequence[Question],
        outcome: StreamOutcome,
        repeated: Mapping[Question, Result],
    ) -> list[Result]:
        share = max(1, len(outcome.answers))
        flops = Flops(outcome.flops.vit // share, outcome.flops.llm // share, outcome.flops.full // share)
        seconds = {stage: round(s / share, 6) for stage, s in {**window.seconds, **outcome.seconds}.items()}
        restarted = (window.restarted or outcome.restarted) and self._engine.refresh.name != "all"
        computed = {
            answer.question: self._result(
                window, answer, outcome.frames_seen, outcome.tokens, flops, seconds, restarted
            )
            for answer in outcome.answers
        }
        if self._reuse_slots:
            good = {question: result for question, result in computed.items() if result.error is None}
            self._repeatable[window.stream] = {**repeated, **good}
        again = {
            question: replace(
                self._result(
                    window,
                    Answer(question, result.answer, result.p_yes, result.label_probabilities),
                    outcome.frames_seen,
                    outcome.tokens,
                    Flops(0, 0, result.flops.full),
                    {} if computed else seconds,
                    restarted,
                ),
                reused_from=result.window,
            )
            for question, result in repeated.items()
        }
        return [(again.get(question) or computed[question]) for question in questions]

    def _errors(self, window: Window, questions: Sequence[Question], error: ResultError) -> list[Result]:
        """Error results for a window that cannot be answered, one per question."""
        failure = Failure(error.code, error.text)
        return [
            self._result(window, Answer(question, "", error=failure), 0, _NOTHING, Flops(0, 0, 0), {})
            for question in questions
        ]

    def _result(
        self,
        window: Window,
        answer: Answer,
        seen: int,
        tokens: Tokens,
        flops: Flops,
        seconds: dict[str, float],
        restarted: bool = False,
    ) -> Result:
        plan, question = self._plan, answer.question
        return Result(
            stream=window.stream,
            epoch=window.epoch,
            window=window.index,
            start_s=float(plan.time(max(plan.first(window.index), window.since))),
            end_s=float(plan.time(plan.end(window.index))),
            captured_at_ms=window.captured_at_ms,
            answered_at_ms=int(time.time() * 1000),
            question=question.id,
            prompt=question.prompt,
            type=question.type,
            answer=answer.text,
            p_yes=answer.p_yes,
            label_probabilities=answer.label_probabilities,
            frames=Frames(max(window.expected, seen), seen),
            tokens=tokens,
            flops=flops,
            seconds=seconds,
            keep=self._provenance.keep,
            refresh=self._engine.refresh.name,
            model=self._provenance.model,
            trained=self._provenance.trained,
            restarted=restarted,
            error=None if answer.error is None else ResultError(*answer.error),
            skipped=window.skipped,
        )


def _place(window: Window) -> dict[str, object]:
    """Log fields that identify a window."""
    return {"stream": window.stream, "epoch": window.epoch, "window": window.index}
