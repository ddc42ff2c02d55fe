"""The engine: many streams' windows, moved and asked together.

A step takes a list of streams' work. Pictures of all streams go through the ViT packed, kept patches only; then new tokens,
refreshed tokens and questions of all streams go through the language model packed; then answers are decoded together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from codecflow.errors import ConfigError, ModelError
from codecflow.messages import Question
from codecflow.vlm.answers import Answers, Asked, compile_question
from codecflow.vlm.batching import batches, timed
from codecflow.vlm.cache import Memory, StreamBuffers
from codecflow.vlm.costs import flops_used, tokens_used
from codecflow.vlm.deviation import deviations
from codecflow.vlm.families.base import Family
from codecflow.vlm.framing import hold
from codecflow.vlm.packing import Branch, Pack, Run
from codecflow.vlm.refresh import Refresh
from codecflow.vlm.task import Task
from codecflow.vlm.window import HeldFrame, StreamWindow
from codecflow.vlm.work import Frame, StreamOutcome, StreamRefusedError, StreamWork

Observer = Callable[[str, Question, Tensor], None]

_QUESTION_RESERVE = 256  # slots set aside for questions and answers; buffers grow when more are asked
_ACTIVATIONS = 0.25  # of a GPU's free memory is left to activations


class Engine:
    """Answers questions about sliding windows of many streams.

    `window_frames`: frames a full window has; with the first frames' size it fixes a stream's buffers. `kv_tokens`: the
    tokens that a stream may hold, instead of every token of a full window; the oldest frames leave early when more are kept.
    `memory_bytes`: limit of all streams' buffers together (default: three quarters of a GPU's free memory; none on the CPU).
    `position_limit`: positions are rebased before they reach it (default and upper bound: what the model was made for).
    `batch_tokens`, `batch_patches`: the most that one forward takes, unless one stream alone has more. `observe`: called
    with each question's first logits, (vocabulary,) float32.
    """

    def __init__(
        self,
        family: Family,
        *,
        window_frames: int,
        refresh: Refresh | str = "none",
        kv_tokens: int | None = None,
        memory_bytes: int | None = None,
        position_limit: int | None = None,
        batch_tokens: int = 16384,
        batch_patches: int = 32768,
        observe: Observer | None = None,
    ) -> None:
        if window_frames < 1:
            raise ConfigError(f"window of {window_frames} frames: it needs at least one")
        self.family = family
        self.window_frames = window_frames
        self.refresh = refresh if isinstance(refresh, Refresh) else Refresh.named(refresh)
        self.kv_tokens = kv_tokens
        self.memory = Memory(_free_memory(family.device) if memory_bytes is None else memory_bytes)
        self.limit = min(position_limit or family.position_limit, family.position_limit)
        self.batch_tokens, self.batch_patches = batch_tokens, batch_patches
        self.observe = observe
        self.answers = Answers(family)
        self.windows: dict[str, StreamWindow] = {}

    @property
    def memory_by_stream(self) -> dict[str, int]:
        """Bytes that each open stream holds: keys and values, and what may be refreshed."""
        return {stream: window.held_bytes for stream, window in self.windows.items()}

    def drop(self, stream: str) -> None:
        """Forgets a stream and frees what it held."""
        window = self.windows.pop(stream, None)
        if window is not None:
            window.buffers.release()

    @torch.inference_mode()
    def step(self, work: Sequence[StreamWork]) -> list[StreamOutcome]:
        """Moves and asks every stream of `work`; outcomes in the same order.

        Raises StreamRefusedError before anything is computed when a stream does not fit: the same call without that stream
        can then be made.
        """
        if len({one.stream for one in work}) != len(work):
            raise ValueError("a stream occurs twice in one step")
        device = self.family.device
        tasks = [self._admit(one) for one in work]
        for group in batches(tasks, lambda task: task.tokens(self.refresh), self.batch_tokens):
            with timed("vit", group, lambda task: task.spent.patches, device):
                self._encode(group)
            with timed("llm", group, lambda task: task.spent.trunk.tokens + len(task.asked), device):
                self._read(group)
        with timed("answer", tasks, lambda task: sum(asked.work.tokens for asked in task.asked), device):
            self.answers.finish([asked for task in tasks for asked in task.asked])
            answers = [[self.answers.answer(asked) for asked in task.asked] for task in tasks]
        restarted = self.refresh.name == "all"
        return [
            StreamOutcome(
                stream=task.work.stream,
                answers=told,
                tokens=tokens_used(task.window, task.new, task.spent, restarted),
                flops=flops_used(self.family, task.window, task.spent, task.asked),
                frames_seen=len(task.window.frames),
                seconds=task.seconds,
            )
            for task, told in zip(tasks, answers, strict=True)
        ]

    def _admit(self, work: StreamWork) -> Task:
        """Moves a stream's window on and makes room for what is to come. May be repeated."""
        new = [hold(self.family, frame) for frame in work.frames if frame.index >= work.first]
        try:
            window = self.windows.get(work.stream) or self._open(work)
            moved = window.evict(work.first, sum(frame.tokens for frame in new))
            if self.refresh.name == "all":
                window.restart()
            asked = [compile_question(self.family, window, question) for question in work.questions]
            reserves = [one.reserve for one in asked]
            window.make_room(
                sum(frame.tokens for frame in new) + sum(reserves),
                sum(frame.span for frame in new) + max(reserves, default=0),
            )
        except ModelError as error:
            raise StreamRefusedError(work.stream, str(error)) from error
        return Task(work, window, asked, new, moved)

    def _open(self, work: StreamWork) -> StreamWindow:
        family = self.family
        prefix, _ = family.chat("")
        most = max((frame.keep.size for frame in work.frames), default=0) or family.grid(1280, 720).tokens
        tokens = self.window_frames * (most + family.frame_text_bound)
        tokens = tokens if self.kv_tokens is None else min(tokens, self.kv_tokens)
        beside = tokens * self._beside(most) // (most + family.frame_text_bound)
        buffers = StreamBuffers(work.stream, family.kv, len(prefix) + tokens + _QUESTION_RESERVE, self.memory, beside)
        window = StreamWindow(work.stream, family, prefix, len(prefix) + tokens, buffers, self.limit)
        self.windows[work.stream] = window
        return window

    def _beside(self, most: int) -> int:
        """Bytes beside keys and values that a frame of `most` tokens may hold, for its refresh."""
        family = self.family
        if self.refresh.name in {"anchors", "budget"}:
            return int(most * family.levels * family.text_config.hidden_size * family.dtype.itemsize)
        return 0

    def _encode(self, tasks: Sequence[Task]) -> None:
        """Kept patches of new frames, and of every frame in the window where it is computed from scratch."""
        family = self.family
        waiting: list[tuple[Task, HeldFrame, Frame]] = []
        for task in tasks:
            frames = {frame.index: frame for frame in task.work.frames}
            if self.refresh.name == "all":
                waiting += [(task, held, held.source) for held in task.window.live if held.source is not None]
            for held in task.new:
                if held.tokens:
                    held.source = frames[held.index] if self.refresh.name == "all" else None
                    waiting.append((task, held, frames[held.index]))
        for batch in batches(waiting, lambda entry: self._patches(entry[1]), self.batch_patches):
            prepared = family.prepare([frame for _, _, frame in batch])
            features = torch.split(family.encode(prepared), prepared.tokens)
            for (task, held, _), found, count in zip(batch, features, prepared.counts, strict=True):
                held.features = found
                task.spent.encoded.append((count, len(found)))

    def _patches(self, frame: HeldFrame) -> int:
        """About how many patches of it go through the ViT."""
        return max(1, self.family.patches_of(frame.total) * frame.kept // frame.total)

    def _read(self, tasks: Sequence[Task]) -> None:
        """Keys and values of new and refreshed tokens and of questions, and the questions' first logits."""
        overlaps = [task.window.live if task.moved and self.refresh.name != "all" else [] for task in tasks]
        for task in tasks:
            for frame in task.new:
                task.window.take(frame)
        self._choose([(task, overlap) for task, overlap in zip(tasks, overlaps, strict=True) if overlap])
        self._forward(tasks)
        for task in tasks:
            if not task.window.prefix_known and task.spent.trunk.tokens:
                task.window.remember_prefix()
            for frame in task.window.frames:
                frame.fresh = False
                if not self.refresh.holds_features(frame):
                    frame.features = None

    def _choose(self, overlaps: Sequence[tuple[Task, list[HeldFrame]]]) -> None:
        """Which tokens of each overlap are refreshed."""
        if self.refresh.probes and overlaps:
            found = deviations(self.family, [(task.window, overlap) for task, overlap in overlaps])
            for (task, overlap), (deviation, cost) in zip(overlaps, found, strict=True):
                task.refreshed, task.spent.probe = self.refresh.runs(task.window, overlap, deviation), cost
        else:
            for task, overlap in overlaps:
                task.refreshed = self.refresh.runs(task.window, overlap)
        for task, _ in overlaps:
            task.spent.refreshed = sum(int(run.visual.sum()) for run in task.refreshed)

    def _forward(self, batch: Sequence[Task]) -> None:
        """One packed forward: what is to be computed of each window, and its questions after it."""
        pack = Pack(self.family)
        asked: list[tuple[Task, Asked, int]] = []  # and the packed place of its last token
        for task in batch:
            window = task.window
            task.spent.trunk = pack.trunk(window.buffers, window.start, task.trunk())
            slot = window.slots
            grown: list[tuple[Branch, Run]] = []
            for one in task.asked:
                branch, run = one.begin(slot)
                grown.append((branch, run))
                slot += one.reserve
                asked.append((task, one, pack.tokens + sum(len(r) for _, r in grown) - 1))
            if grown:
                task.asked[0].work += pack.branches(window.buffers, window.start, window.slots, grown)
        if not pack.tokens:
            return
        hidden = pack.run()
        logits = self.family.logits(hidden[[place for _, _, place in asked]]) if asked else ()
        for (task, one, _), row in zip(asked, logits, strict=True):
            one.logits, one.scored = row, 1
            if self.observe:
                self.observe(task.work.stream, one.question, row)


def _free_memory(device: torch.device) -> int | None:
    """Bytes for streams' buffers on a GPU that already holds the weights; None on the CPU, where memory is the system's."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * (1 - _ACTIVATIONS))
