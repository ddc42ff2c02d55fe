"""`codecflow bench window`: cost of one window under each keep and refresh policy, compared with full computation.

Masks come from real clips. Weights are random, so time, memory and FLOPs are real, answers are not. Each case fills its
streams' windows once, then slides; only slides are timed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from codecflow.errors import ModelError
from codecflow.messages import Question
from codecflow.tools.bench.clip_masks import BACKGROUND, ClipMasks
from codecflow.tools.bench.window_cost import Case, Cost, Plan
from codecflow.vlm.engine import Engine, Observer
from codecflow.vlm.families import Family
from codecflow.vlm.work import Frame, StreamOutcome, StreamWork

QUESTIONS = ("Is there a person?", "Is a car moving?", "Is anything on fire?", "Is the light on?")

Logits = dict[tuple[str, int, str], Tensor]

_ROUNDS = 4
"""Maximum number of times that a case runs the same slides until none has sizes that are new to the engine."""


class Measurement:
    """All cases on one model, one clip after another. `profile`: prints a profile of one slide. `idle`: also measures how
    long a GPU computes during a slide."""

    def __init__(self, family: Family, plan: Plan, profile: bool = False, idle: bool = False) -> None:
        self.family, self.plan, self.profile, self.idle = family, plan, profile, idle
        self.questions = [
            Question(f"q{n}", QUESTIONS[n % len(QUESTIONS)], "text", max_tokens=plan.text)
            if plan.text
            else Question(f"q{n}", QUESTIONS[n % len(QUESTIONS)], "yes-no")
            for n in range(plan.questions)
        ]
        self._patches: dict[tuple[str, int, bytes], npt.NDArray[np.uint8]] = {}
        self._reference: dict[tuple[str, int], tuple[Cost, Logits, list[list[str]]]] = {}

    def run(self, clip: ClipMasks, case: Case) -> Cost:
        """Fills the windows of `case.streams` streams and times the slides. Out of memory is reported, not raised."""
        cost = Cost(clip.name, case.keep, case.refresh_name, case.streams)
        try:
            logits, answers = self._measure(clip, case, cost)
        except (ModelError, torch.OutOfMemoryError) as error:
            cost.failed = str(error).splitlines()[0]
        else:
            self._compare(case, cost, logits, answers)
        finally:
            if self.family.device.type == "cuda":
                torch.cuda.empty_cache()
        return cost

    def first_window_s(self, clip: ClipMasks, case: Case) -> float | None:
        """Seconds of one stream's first window, with its questions: the first of a process also compiles kernels. None if it
        cannot be computed, which the row of its case reports."""
        work = self._work(clip, replace(case, streams=1), 0, self.plan.window)
        begun = time.perf_counter()
        try:
            _answered(self._engine(case).step(work))
        except (ModelError, torch.OutOfMemoryError):
            return None
        return time.perf_counter() - begun

    def _engine(self, case: Case, observe: Observer | None = None) -> Engine:
        return Engine(self.family, refresh=case.refresh, background=case.keep == BACKGROUND, observe=observe)

    def measure(self, clips: Sequence[ClipMasks], cases: Sequence[Case]) -> list[Cost]:
        """Runs every case on every clip; `all` + `all`, which does not depend on masks, for many streams on the first
        only."""
        costs: list[Cost] = []
        for number, clip in enumerate(clips):
            for case in cases:
                if number and (case.keep, case.refresh.name) == ("all", "all") and case.streams > 1:
                    continue
                cost = self.run(clip, case)
                costs.append(cost)
                result = cost.failed or f"{cost.ms:.1f} ms per window, {100 * cost.flops_share:.2f} % of the FLOPs"
                print(f"{clip.name}: {case.name}, {case.streams} streams: {result}", file=sys.stderr, flush=True)
        return costs

    def _measure(self, clip: ClipMasks, case: Case, cost: Cost) -> tuple[Logits, list[list[str]]]:
        plan, logits, step = self.plan, {}, 0  # type: Plan, Logits, int

        def observe(stream: str, question: Question, row: Tensor) -> None:
            logits[stream, step, question.id] = row.clone()  # read later: the engine does not wait for a GPU either

        engine = self._engine(case, observe)
        # A step with sizes that occur for the first time is slower on a GPU (vlm/graphs.py). A stream that runs for hours
        # has few of them.
        for round_number in range(1, _ROUNDS + 1):
            _, before = engine.graph_use
            cost.steps_ms = []
            self._reset_peak()
            self._fill_windows(engine, clip, case)
            logits.clear()
            outcomes: list[StreamOutcome] = []
            for step in range(1, plan.slides + 1):  # read by `observe`
                if sum(cost.steps_ms) > 1000 * plan.max_s:
                    break
                work = self._slide(clip, case, step)
                begun = time.perf_counter()
                outcomes += engine.step(work)  # it times its stages, so the device is idle at its end
                cost.steps_ms.append(1000 * (time.perf_counter() - begun))
                _answered(outcomes)
            if engine.graph_use[1] == before or round_number == _ROUNDS:
                break
        self._fill(cost, engine, outcomes, sum(cost.steps_ms) / 1000)
        found = dict(logits)
        # Recording slows the host down: the timed slides run once more for it.
        if self.profile:
            self._fill_windows(engine, clip, case)
            table = profiled(partial(engine.step, self._slide(clip, case, 1)))
            print(f"{case.name}, {case.streams} streams:\n{table}", file=sys.stderr)
        elif self.idle and self.family.device.type == "cuda":
            self._fill_windows(engine, clip, case)
            slides = [self._slide(clip, case, step) for step in range(1, len(cost.steps_ms) + 1)]
            busy_ms, recorded_ms = recorded([partial(engine.step, work) for work in slides])
            # Two upper bounds: recording slows the host down, and a GPU that rests in between computes faster after it.
            cost.idle_share = max(0.0, 1 - busy_ms / min(recorded_ms, sum(cost.steps_ms)))
        for stream in list(engine.windows):
            engine.drop(stream)
        return found, [[answer.text for answer in outcome.answers] for outcome in outcomes]

    def _fill_windows(self, engine: Engine, clip: ClipMasks, case: Case) -> None:
        """Each stream's first window, from nothing, and its questions: nothing runs for the first time while slides are
        timed."""
        for stream in list(engine.windows):
            engine.drop(stream)
        _answered(engine.step(self._work(clip, case, 0, self.plan.window)))

    def _slide(self, clip: ClipMasks, case: Case, step: int) -> list[StreamWork]:
        """All streams' windows moved on for the `step`th time."""
        end = self.plan.window + step * self.plan.stride
        return self._work(clip, case, end - self.plan.stride, end)

    def _work(self, clip: ClipMasks, case: Case, begin: int, end: int) -> list[StreamWork]:
        first = end - self.plan.window
        return [
            StreamWork(
                f"camera-{n}", [self._frame(clip, case.keep, n, i) for i in range(begin, end)], first, self.questions
            )
            for n in range(case.streams)
        ]

    def _frame(self, clip: ClipMasks, policy: str, stream: int, index: int) -> Frame:
        place = _place(clip, stream, index)
        keep, rgb = clip.keep[policy][place], clip.pictures[place]
        if policy == BACKGROUND and not index:
            keep = np.ones_like(keep)  # a stream's first frame is complete, wherever in the clip it starts
        patches = None
        if keep.any():
            key = clip.name, place, keep.tobytes()
            if key not in self._patches:
                self._patches[key] = self.family.input.patches(rgb, keep)
            patches = self._patches[key]
        return Frame(index, index / 2, keep, patches, (rgb.shape[1], rgb.shape[0]), bool(clip.anchors[place]))

    def _fill(self, cost: Cost, engine: Engine, outcomes: list[StreamOutcome], seconds: float) -> None:
        count = len(outcomes)
        windows = list(engine.windows.values())
        tokens = [outcome.tokens for outcome in outcomes]
        flops = [outcome.flops for outcome in outcomes]
        executed = sum(f.vit + f.llm for f in flops)
        cost.ms = 1000 * seconds / count
        cost.stages_ms = {
            stage: 1000 * sum(o.seconds[stage] for o in outcomes) / count for stage in outcomes[0].seconds
        }
        cost.streams_served = self.plan.stride_s * count / seconds
        cost.window_tokens = sum(t.refreshed + t.reused for t in tokens) / count
        cost.tokens_kept = sum(t.kept for t in tokens) / sum(t.total for t in tokens)
        held = sum(t.refreshed + t.reused for t in tokens)
        cost.tokens_computed = sum(t.refreshed for t in tokens) / held if held else 0.0
        cost.flops = executed / count
        cost.flops_share = executed / sum(f.full for f in flops)
        cost.tflops_per_s = executed / seconds / 1e12
        cost.kv_bytes = sum(w.tokens * w.pool.shape.bytes_per_token for w in windows) / len(windows)
        cost.held_bytes = sum(w.held_bytes for w in windows) / len(windows)
        cost.pool_bytes = engine.pool_use.total
        if self.family.device.type == "cuda":
            use = engine.pool_use  # only the peak of the pool, not its capacity
            cost.peak_bytes = torch.cuda.max_memory_allocated(self.family.device) - use.total + use.peak

    def _compare(self, case: Case, cost: Cost, logits: Logits, answers: list[list[str]]) -> None:
        """Compares with `all` + `all` of the same clip: its logits for as many streams, or its time for fewer."""
        if (case.keep, case.refresh.name) == ("all", "all"):
            self._reference[cost.clip, case.streams] = cost, logits, answers
        known = [n for clip, n in self._reference if clip == cost.clip and n <= case.streams]
        if not known:
            return
        reference, expected, theirs = self._reference[cost.clip, max(known)]
        cost.speedup = reference.ms / cost.ms
        if max(known) == case.streams:
            cost.max_logit_difference = max(float((logits[k] - expected[k]).abs().max()) for k in expected)
            same = [a == b for one, other in zip(answers, theirs, strict=True) for a, b in zip(one, other, strict=True)]
            cost.agreement = sum(same) / len(same)

    def _reset_peak(self) -> None:
        if self.family.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.family.device)


def _answered(outcomes: Sequence[StreamOutcome]) -> None:
    """Raises ModelError if a stream was not answered."""
    for outcome in outcomes:
        if outcome.error is not None:
            raise ModelError(f"{outcome.stream}: {outcome.error.text}")


def _place(clip: ClipMasks, stream: int, index: int) -> int:
    """Streams start at different anchors of the clip, and wrap around at its end."""
    anchors = np.flatnonzero(clip.anchors)
    begin = int(anchors[stream % len(anchors)]) if len(anchors) else 0
    return (begin + index) % len(clip)


def recorded(steps: Sequence[Callable[[], object]]) -> tuple[float, float]:
    """Milliseconds of `steps`, one after another, in which at least one kernel runs on the GPU (copies do not count), and in
    all, while they are recorded."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        torch.zeros(1, device="cuda").add_(1)  # the first kernel that is recorded takes milliseconds to launch
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for step in steps:
            step()
        torch.cuda.synchronize()
        elapsed_ms = 1000 * (time.perf_counter() - begun)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in found.events() or ()
        if event.device_type.name == "CUDA" and not event.name.startswith(("Memcpy", "Memset"))
    )
    total, until = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total / 1000, elapsed_ms


def profiled(step: Callable[[], object], rows: int = 25) -> str:
    """Runs `step` under torch's profiler: a table of the kernels (operators on a CPU) that took the most time."""
    gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as found:
        step()
    order = "self_cuda_time_total" if gpu else "self_cpu_time_total"
    table: str = found.key_averages().table(sort_by=order, row_limit=rows, max_name_column_width=60)
    return table
