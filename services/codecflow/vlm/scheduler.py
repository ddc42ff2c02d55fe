"""Work in progress of a step: one task per stream, split into parts that are batched and can fail individually."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from codecflow.vlm.answers import BRANCH_TOKENS, Request
from codecflow.vlm.costs import Usage
from codecflow.vlm.refresh import Refresh
from codecflow.vlm.runner import Run
from codecflow.vlm.window import HeldFrame, Slide, StreamWindow
from codecflow.vlm.work import Failure, Frame, StreamWork

Item = TypeVar("Item")

STAGES = ("vit", "llm", "answer")
"""The stages of a step, in order."""

_DEVICE_FAILED: type[Exception] = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


@dataclass(slots=True)
class Task:
    """One stream's part of the current step. `overlap`: frames that lost context because earlier tokens left."""

    work: StreamWork
    window: StreamWindow | None = None
    plan: Slide | None = None
    new: list[HeldFrame] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    overlap: list[HeldFrame] = field(default_factory=list)
    refreshed: list[Run] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    error: Failure | None = None

    @property
    def held(self) -> StreamWindow:
        """Its window; available once it is admitted."""
        assert self.window is not None
        return self.window

    @property
    def pending(self) -> list[Request]:
        """Requests without an error."""
        return [request for request in self.requests if request.error is None]

    def trunk(self, refresh: Refresh) -> list[Run]:
        """The tokens of prefix, background and frames to compute, in order."""
        prefix = []
        if refresh.name == "all":
            background = self.held.background
            prefix = [self.held.prefix_run(), *([background.run(self.held.family)] if len(background) else [])]
        return [*prefix, *self.refreshed, *(frame.run() for frame in self.held.live if frame.fresh)]

    def tokens(self, refresh: Refresh) -> int:
        """Approximate number of tokens that its part of the step computes; known in advance."""
        again = [frame for frame in self.overlap if refresh.holds_features(frame)]
        fresh = [frame for frame in self.held.live if frame.fresh]
        background = len(self.held.background) if refresh.name == "all" else 0
        return (
            background
            + sum(f.tokens for f in (*again, *fresh))
            + sum(request.suffix_tokens for request in self.pending)
        )


@dataclass(frozen=True, slots=True)
class Part:
    """The smallest unit that is computed or fails by itself: a picture, a stream's tokens, or one question."""

    task: Task
    size: int = 0
    frame: tuple[HeldFrame, Frame] | None = None
    request: Request | None = None

    @property
    def alive(self) -> bool:
        return self.task.error is None and (self.request is None or self.request.error is None)

    def fail(self, failure: Failure) -> None:
        """Records the failure of the question, or of the stream if the part is not a question."""
        if self.request is not None:
            self.request.error = failure
        else:
            self.task.error = failure


def isolated(parts: Sequence[Part], compute: Callable[[list[Part]], None]) -> None:
    """Computes all parts together. On an error it computes each half separately, recursively: in the end only parts that
    cannot be computed alone carry the error, and all others are computed. `compute` must be repeatable.

    An error of the device itself (a failed kernel, a lost GPU) is raised: nothing can be computed on it any more.
    """
    alive = [part for part in parts if part.alive]
    if not alive:
        return
    try:
        compute(alive)
    except Exception as error:  # of any kind: no stream may stop another one
        if isinstance(error, _DEVICE_FAILED) and not isinstance(error, torch.OutOfMemoryError):
            raise
        failure = failure_of(error)
    else:
        return
    # Outside the handler: the error's traceback references the tensors that did not fit.
    if len(alive) == 1:
        alive[0].fail(failure)
    else:
        middle = len(alive) // 2
        isolated(alive[:middle], compute)
        isolated(alive[middle:], compute)


def failure_of(error: Exception) -> Failure:
    """In one line, with a code that distinguishes memory errors."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )
    return Failure("out-of-memory" if memory else "failed", text[:300])


def batches(items: Iterable[Item], size: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """Groups consecutive items to a total size of at most `limit`; a single item may exceed it."""
    batch: list[Item] = []
    total = 0
    for item in items:
        if batch and total + size(item) > limit:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch


def forwards(parts: Iterable[Part], limit: int) -> Iterator[list[Part]]:
    """Like `batches`, with at most BRANCH_TOKENS of one stream's questions in each, unless a single one has more."""
    batch: list[Part] = []
    total = own = 0
    for part in parts:
        own = own if batch and batch[-1].task is part.task else 0
        if batch and (total + part.size > limit or (part.request and own and own + part.size > BRANCH_TOKENS)):
            yield batch
            batch, total, own = [], 0, 0
        batch.append(part)
        total += part.size
        own += part.size if part.request else 0
    if batch:
        yield batch
