"""The engine: slides the windows of many streams and answers their questions in common batches.

A step takes a list of streams' work. Kept patches of new frames go through the ViT packed, while further streams are
prepared. Admission allocates memory for each stream. New tokens, refreshed tokens and questions of all streams go through
the language model packed. Then answers are decoded together. A stream or question that cannot be computed gets an error; the
others are answered.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from codecflow.errors import ConfigError
from codecflow.messages import Flops, Question, Tokens
from codecflow.vlm.admission import Admission
from codecflow.vlm.answers import HEAD_ROWS, Answers, Request
from codecflow.vlm.costs import flops_used, tokens_used
from codecflow.vlm.decoder_graphs import DecoderGraphs
from codecflow.vlm.families.base import Family
from codecflow.vlm.flops import Work
from codecflow.vlm.kv_pool import KVPool
from codecflow.vlm.moves import Prefix
from codecflow.vlm.refresh import Refresh, deviations
from codecflow.vlm.runner import Pack
from codecflow.vlm.scheduler import Part, Task, batches, forwards, isolated
from codecflow.vlm.transfer import StageClock
from codecflow.vlm.window import HeldFrame, StreamWindow
from codecflow.vlm.work import Answer, Failure, Pace, StreamOutcome, StreamWork

Observer = Callable[[str, Question, Tensor], None]


@dataclass(frozen=True, slots=True)
class PoolUse:
    """Bytes of the KV pool: its capacity, those of pages that streams hold, and the peak of the latter."""

    total: int
    held: int
    peak: int
    streams: int


class Engine:
    """Answers questions about sliding windows of many streams.

    `memory_bytes`: limit for keys and values of all streams, and features held for refreshing (default: three quarters of a
    GPU's free memory, half of the machine's for the CPU). Raises ModelError when it is too small, and ConfigError on
    settings that conflict. `background`: the newest token of a grid cell outlives its frame until a newer one arrives
    (background.py). `idle_after_s`: a stream that was not part of a step for this long may lose its window to others.
    `clock`: seconds, for this. `position_limit`: positions are rebased before they reach it (default and maximum: the
    model's own limit). `batch_tokens`, `batch_patches`: maximum per forward, unless a single stream or question has more.
    While a GPU computes one forward, the host prepares the next. `observe`: called with each question's first logits,
    (vocabulary,) float32.
    """

    def __init__(
        self,
        family: Family,
        *,
        refresh: Refresh | str = "none",
        background: bool = False,
        memory_bytes: int | None = None,
        idle_after_s: float = 60.0,
        position_limit: int | None = None,
        batch_tokens: int = 16384,
        batch_patches: int = 24576,
        observe: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if memory_bytes is not None and memory_bytes < 1:
            raise ConfigError(f"memory of {memory_bytes} bytes: give more")
        if background and family.kv.eight_bit:
            raise ConfigError(
                "--kv fp8 does not go with --coverage background: its keys are rotated at each stride, and 8 bits round them"
                " each time"
            )
        self.family = family
        self.refresh = refresh if isinstance(refresh, Refresh) else Refresh.parse(refresh)
        self.background = background
        self.batch_tokens, self.batch_patches = batch_tokens, batch_patches
        self.observe = observe
        self.pace = Pace()
        self.pool = KVPool(family.kv, memory_bytes, self._feature_bytes())
        self.graphs = DecoderGraphs.of(family, self.pool)
        self.answers = Answers(family, self.pool, batch_tokens, self.graphs, self.pace.beat)
        limit = min(position_limit or family.position_limit, family.position_limit)
        prefix = self._read_prefix()
        self.admission = Admission(
            family, self.pool, prefix, self.refresh, limit, idle_after_s, clock, background=background
        )

    @property
    def windows(self) -> dict[str, StreamWindow]:
        return self.admission.windows

    @property
    def lost(self) -> frozenset[str]:
        """Streams whose window is gone: refused, evicted, failed or dropped. Each starts again at its next anchor frame."""
        return frozenset(self.admission.lost)

    @property
    def memory_by_stream(self) -> dict[str, int]:
        """Bytes that each stream holds: pages of keys and values, and data held for refreshing."""
        return {stream: window.held_bytes for stream, window in self.windows.items()}

    @property
    def pool_use(self) -> PoolUse:
        pool = self.pool
        held = (pool.pages - pool.free) * pool.page_bytes
        return PoolUse(pool.nbytes, held, pool.peak * pool.page_bytes, len(self.windows))

    @property
    def graph_use(self) -> tuple[int, int]:
        """Forwards so far that CUDA graphs computed, and those that ran launch by launch because their sizes were new."""
        own = [graphs.cache for graphs in (self.family.vision_graphs, self.graphs) if graphs is not None]
        return sum(cache.replays for cache in own), sum(cache.launched for cache in own)

    def unchanged(self, work: StreamWork) -> bool:
        """Whether this work would leave the visual tokens of the stream's window unchanged: none arrives, and tokens that
        leave a frame only become background. Changes nothing."""
        window = self.windows.get(work.stream)
        return (
            window is not None and not any(frame.keep.any() for frame in work.frames) and window.unchanged(work.first)
        )

    def drop(self, stream: str) -> None:
        """Forgets a stream and releases everything that it holds."""
        self.admission.drop(stream)

    def check_integrity(self) -> None:
        """Checks the bookkeeping's invariants; for tests and for idle moments."""
        self.admission.check_integrity()

    @torch.inference_mode()
    def step(self, work: Sequence[StreamWork]) -> list[StreamOutcome]:
        """Slides the windows of all streams in `work` and answers their questions; outcomes in the same order.

        Errors in one stream or question are not raised: its outcome or answer carries them. Raises ValueError when a stream
        occurs twice, and torch's error when the device itself has failed.
        """
        if len({one.stream for one in work}) != len(work):
            raise ValueError("a stream occurs twice in one step")
        tasks = [Task(one) for one in work]
        try:
            self._compute(tasks)
            outcomes = [self._outcome(task) for task in tasks]
        except BaseException:  # the state of the windows is unknown: all of them start again
            for task in tasks:
                self.admission.drop(task.work.stream)
            raise
        for task in tasks:
            if task.error is not None and task.error.code != "restarting":
                self.admission.refuse(task, task.error)
        return outcomes

    def _compute(self, tasks: Sequence[Task]) -> None:
        clock: StageClock[Task] = StageClock(self.family.device)
        self._draft(tasks, clock)
        self.admission.admit(tasks)
        admitted = [task for task in tasks if task.error is None]
        rounds = self.admission.rounds(admitted) or [[]]
        by_window = {id(task.window): task for task in admitted}
        self.admission.reserve(rounds[0])
        first = {id(request) for request in rounds[0]}
        for group in batches(admitted, lambda task: task.tokens(self.refresh), self.batch_tokens):
            if self.refresh.name == "all":
                with clock.stage("vit", group, lambda task: task.usage.patches):
                    self._encode_again(group)
            with clock.stage("llm", group, lambda task: task.usage.trunk.tokens + len(task.requests)):
                self._choose(group)
                self._read([part for task in group for part in self._parts(task, first)])
                self._settle(group)
        for number, requests in enumerate(rounds):
            with clock.stage("answer", admitted, lambda task: sum(a.work.tokens for a in task.requests)):
                parts = [Part(by_window[id(one.window)], one.suffix_tokens, request=one) for one in requests]
                if number:
                    self.admission.reserve([part.request for part in parts if part.alive and part.request])
                    self._read(parts)
                isolated(parts, self._finish)
                for task in admitted:
                    task.held.reserve(0)
        for task, stage, seconds in clock.read():
            task.seconds[stage] += seconds

    def _parts(self, task: Task, first: set[int]) -> list[Part]:
        """A stream's new and refreshed tokens, then the questions of the first round."""
        trunk = sum(len(run) for run in task.trunk(self.refresh))
        questions = [Part(task, one.suffix_tokens, request=one) for one in task.pending if id(one) in first]
        return [Part(task, trunk), *questions]

    def _draft(self, tasks: Sequence[Task], clock: StageClock[Task]) -> None:
        """Prepares every stream's work. The ViT needs no memory in the pool and no plan, so it starts with the first
        streams' new frames while the host prepares the others, and the moves of all windows: a GPU does not wait for
        them."""
        for batch in self._drafted(tasks):
            own = {id(part.task): part.task for part in batch}
            with clock.stage("vit", list(own.values()), _share(batch)):
                isolated(batch, self._see)
        for task in tasks:
            if task.error is None:
                self.admission.plan(task)

    def _drafted(self, tasks: Sequence[Task]) -> Iterator[list[Part]]:
        """Batches of new frames for the ViT, each as soon as enough streams are drafted. The first is half as large: a GPU
        waits for it."""
        limit = self.batch_patches
        graphs = self.family.vision_graphs
        if graphs is not None and graphs.cache.limit:  # at most so many that one fits, with a row for each frame
            limit = min(limit, graphs.cache.limit - graphs.cache.limit // 16)
        batch: list[Part] = []
        total, most = 0, limit // 2
        for task in tasks:
            self.admission.draft(task)
            if task.error is not None or self.refresh.name == "all":
                continue
            frames = {frame.index: frame for frame in task.work.frames}
            for held in task.new:
                if held.tokens:
                    part = Part(task, self._patches(held), frame=(held, frames[held.index]))
                    if batch and total + part.size > most:
                        yield batch
                        batch, total, most = [], 0, limit
                    batch.append(part)
                    total += part.size
        if batch:
            yield batch

    def _encode_again(self, tasks: Sequence[Task]) -> None:
        """Encodes the kept patches of every frame in windows that are computed from scratch."""
        parts = []
        for task in tasks:
            frames = {frame.index: frame for frame in task.work.frames}
            for held in task.held.live:
                held.source = held.source or frames[held.index]
                parts.append(Part(task, self._patches(held), frame=(held, held.source)))
        for batch in batches(parts, lambda part: part.size, self.batch_patches):
            isolated(batch, self._see)

    def _patches(self, held: HeldFrame) -> int:
        """Approximate number of patches that the ViT processes for a frame."""
        return max(1, self.family.patches_of(held.total) * held.kept // held.total)

    def _see(self, parts: Sequence[Part]) -> None:
        """One packed forward of the ViT."""
        self.pace.beat()
        frames = [part.frame for part in parts if part.frame is not None]
        patches = self.family.prepare([source for _, source in frames])
        features = torch.split(self.family.encode(patches), patches.tokens)
        for part, (held, _), found, count in zip(parts, frames, features, patches.counts, strict=True):
            held.features = found
            part.task.usage.encoded.append((count, len(found)))

    def _choose(self, tasks: Sequence[Task]) -> None:
        """Selects the tokens of each overlap to refresh."""
        overlapping = [Part(task) for task in tasks if task.overlap]
        isolated(overlapping, self._probe if self.refresh.probes else self._pick)

    def _probe(self, parts: Sequence[Part]) -> None:
        found = deviations(self.family, self.pool, [(part.task.held, part.task.overlap) for part in parts])
        for part, (deviation, cost) in zip(parts, found, strict=True):
            task = part.task
            task.refreshed, task.usage.probe = self.refresh.runs(task.held, task.overlap, deviation), cost

    def _pick(self, parts: Sequence[Part]) -> None:
        for part in parts:
            part.task.refreshed = self.refresh.runs(part.task.held, part.task.overlap)

    def _read(self, parts: Sequence[Part]) -> None:
        """Computes keys and values of new and refreshed tokens and of questions, and the questions' first logits."""
        for batch in forwards(parts, self.batch_tokens):
            isolated(batch, self._forward)

    def _forward(self, parts: Sequence[Part]) -> None:
        """One packed forward: the tokens to compute of each window, followed by its questions."""
        self.pace.beat()
        pack = Pack(self.family, self.pool, self.graphs)
        last: list[tuple[Part, Request, int]] = []  # questions, and the packed index of their last token
        trunks: list[tuple[Task, Work]] = []
        question_work: list[tuple[Request, Work]] = []
        for _, group in groupby(parts, key=lambda part: id(part.task)):
            own = list(group)
            task = own[0].task
            if own[0].request is None:
                trunks.append((task, pack.trunk(task.held, task.trunk(self.refresh))))
            grown = []
            at = pack.tokens
            for part in own:
                if part.request is not None:
                    grown.append(part.request.begin())
                    at += part.size
                    last.append((part, part.request, at - 1))
            if grown:
                first = next(part.request for part in own if part.request is not None)
                question_work.append((first, pack.branches(task.held, grown, last_only=True)))
        if not pack.tokens:
            return
        hidden = pack.run(wanted=[place for _, _, place in last])
        for begin in range(0, len(last), HEAD_ROWS):
            rows = last[begin : begin + HEAD_ROWS]
            scores = self.family.logits(hidden[begin : begin + HEAD_ROWS])
            if self.observe:
                for (part, one, _), row in zip(rows, scores, strict=True):
                    self.observe(part.task.work.stream, one.question, row)
            self.answers.read_first([one for _, one, _ in rows], scores)
        for task, work in trunks:
            task.usage.trunk = work
        for one, work in question_work:
            one.work = work

    def _settle(self, tasks: Sequence[Task]) -> None:
        """After the forward: releases features unless they may be needed again."""
        for task in tasks:
            task.usage.refreshed = sum(int(run.visual.sum()) for run in task.refreshed)
            for frame in task.held.frames:
                frame.fresh = False
                if not self._holds_features(frame):
                    frame.features = None

    def _finish(self, parts: Sequence[Part]) -> None:
        self.answers.finish([part.request for part in parts if part.request is not None])

    def _outcome(self, task: Task) -> StreamOutcome:
        if task.error is not None:
            return StreamOutcome(task.work.stream, (), Tokens(0, 0, 0, 0), Flops(0, 0, 0), 0, task.seconds, task.error)
        window = task.held
        return StreamOutcome(
            stream=task.work.stream,
            answers=[one.answer or Answer(one.question, "", error=one.error or _UNANSWERED) for one in task.requests],
            tokens=tokens_used(window, task.new, task.usage, self.refresh.name == "all"),
            flops=flops_used(self.family, window, task.usage, task.requests),
            frames_seen=len(window.frames),
            seconds=task.seconds,
            restarted=task.work.first < window.since,
        )

    @torch.inference_mode()
    def _read_prefix(self) -> Prefix:
        """Computes the tokens before every video once, for all streams: no tokens precede them."""
        family, pool = self.family, self.pool
        ids, _ = family.chat("")
        empty = torch.empty(0)
        window = StreamWindow("", family, Prefix(ids, empty, empty), pool)
        window.reserve(0)
        pack = Pack(family, pool)
        pack.trunk(window, [window.prefix_run()])
        pack.run(wanted=())
        slots = window.where(0, len(ids)).to(family.device)
        prefix = Prefix(ids, *pool.read(slots))
        window.release()
        return prefix

    def _holds_features(self, frame: HeldFrame) -> bool:
        """Whether features of this frame may be needed again. With `all`, those of the background are, since its pictures
        are gone."""
        return self.refresh.holds_features(frame) or (self.background and self.refresh.name == "all")

    def _feature_bytes(self) -> int:
        """Bytes of features that a token may hold for its refresh, outside the pool."""
        if self.refresh.name in {"anchors", "budget"} or (self.background and self.refresh.name == "all"):
            family = self.family
            return int(family.levels * family.text_config.hidden_size * family.dtype.itemsize)
        return 0


def _share(parts: Sequence[Part]) -> Callable[[Task], int]:
    """The size of each task's parts."""
    sizes: Counter[int] = Counter()
    for part in parts:
        sizes[id(part.task)] += part.size
    return lambda task: sizes[id(task)]


_UNANSWERED = Failure("failed", "not answered")
