"""Input and output types of the engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codecflow.messages import Flops, Question, Tokens


@dataclass(frozen=True, slots=True)
class Frame:
    """One sampled frame of one stream.

    `index`: its slot on the stream's sampling grid, counted from the start of the epoch (slots may be skipped: lost frames).
    `time_s`: presentation time. `keep`: (tokens,) bool, row by row over the family's token grid for this picture size.
    `patches`: (patches, size, size, 3) uint8, those that kept tokens need, as returned by `ModelInput.patches`; None when
    nothing is kept. `size`: (width, height) of the shown picture, which selects the token grid. `anchor`: all of it is kept.
    For frames of a stream, `seq` is the coded picture in the epoch and `grid` are the (rows, columns) of its tokens.
    """

    index: int
    time_s: float
    keep: npt.NDArray[np.bool_]
    patches: npt.NDArray[np.uint8] | None
    size: tuple[int, int]
    anchor: bool = False
    seq: int = 0
    grid: tuple[int, int] = (0, 0)


class Pace:
    """Whether an engine advances, for whoever watches it from another thread: a batch takes long where answers are long, but
    one forward does not. `at`: when the newest forward of the batch in progress began, in monotonic seconds; None between
    batches. `longest_s`: the longest time from one forward to the next."""

    __slots__ = ("at", "longest_s")

    def __init__(self) -> None:
        self.at: float | None = None
        self.longest_s = 0.0

    def begin(self) -> None:
        """A batch begins."""
        self.at = time.monotonic()

    def beat(self) -> None:
        """A forward begins."""
        now = time.monotonic()
        if self.at is not None:
            self.longest_s = max(self.longest_s, now - self.at)
        self.at = now

    def end(self) -> None:
        """The batch is done."""
        self.beat()
        self.at = None


@dataclass(frozen=True, slots=True)
class StreamWork:
    """One stream's part of an engine step: its window slides to start at slot `first`, adds `frames` (oldest first), and
    answers `questions` (may be empty). Frames with an index below `first` leave the window."""

    stream: str
    frames: Sequence[Frame]
    first: int
    questions: Sequence[Question] = ()


class Failure(NamedTuple):
    """Why a stream or a question was not answered in a step. Others are not affected. `text`: one line.

    `code`: `question` (the question is invalid), `no-room` (no memory, or no positions, for its window), `restarting` (its
    window was lost and no anchor frame has arrived since), `out-of-memory` (its part alone exceeded the memory for
    computing), `failed` (computing it raised an error).
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question. `p_yes` for yes-no, `label_probabilities` for choice questions. With `error`, no
    answer."""

    question: Question
    text: str
    p_yes: float | None = None
    label_probabilities: dict[str, float] | None = None
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class StreamOutcome:
    """The outcome of one stream's work: its answers in the order of its questions, and their cost.

    `error`: why there are no answers; the engine then holds nothing of the stream and restarts it at the next anchor frame.
    `restarted`: the window lacks frames from before such a restart. `tokens` and `flops` are of the whole step of this
    stream (all questions together). `seconds`: stage -> seconds; stages are timed once for the whole batch and divided among
    its streams in proportion to their tokens. `frames_seen`: frames in the window when the questions were asked.
    """

    stream: str
    answers: Sequence[Answer]
    tokens: Tokens
    flops: Flops
    frames_seen: int
    seconds: dict[str, float] = field(default_factory=dict)
    error: Failure | None = None
    restarted: bool = False
