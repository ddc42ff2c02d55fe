"""codecflow.results: one JSON document per (window, question)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from codecflow.text import one_line

from ._wire import dump, load
from .limits import (
    CODE,
    MAX_LABEL,
    MAX_LINE,
    MAX_PROMPT,
    ClockMs,
    Count32,
    Line,
    Name,
    Natural,
    Seconds,
    Share,
)
from .streams import QuestionType

MAX_ANSWER = 65_536
"""Maximum characters of an answer."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Sampled frames of the window: how many were expected, and how many the worker had."""

    expected: Count32
    seen: Count32

    @property
    def missing(self) -> int:
        return self.expected - self.seen


@dataclass(frozen=True, slots=True)
class Tokens:
    """Visual tokens. Of this stride's new frames `kept` of `total` were encoded. Of the tokens in the window's KV cache when
    the answer was given, `refreshed` were computed for this window (new ones included), `reused` were not; `background` of
    both have outlived their frame."""

    kept: Natural
    total: Natural
    refreshed: Natural
    reused: Natural
    background: Natural = 0


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations (a multiply-add is two) for this window, divided among its questions.

    `full` is what keep `all` with refresh `all` would have executed for the same window and question.
    """

    vit: Natural
    llm: Natural
    full: Natural


@dataclass(frozen=True, slots=True)
class ResultError:
    """Why a question was not answered. `code` is a short word for counting; `text` one line for people, cut to 300
    characters."""

    code: Annotated[str, msgspec.Meta(pattern=CODE)]
    text: Line

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", one_line(self.text, MAX_LINE))


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one question about one window.

    Window `window` covers presentation times [start_s, end_s) of its epoch, in seconds. `captured_at_ms`: wall clock of the
    newest frame's capture, `answered_at_ms` of the answer. `p_yes`: for yes-no questions, the probability of yes among yes
    and no. `label_probabilities`: for choice questions, by label. `seconds`: by stage. `restarted`: the window was rebuilt
    after a take-over, so under refresh `none` and `anchors` its KV lacks the context of frames evicted before. `trained`:
    False if the checkpoint says that its weights are random. `error`: why there is no answer; `answer` is then empty and
    there are no probabilities. `skipped`: windows left out right before this one because the worker was behind.
    `reused_from`: the window of the same stream and epoch from which the answer was repeated: the model was not run, since
    the window holds the same visual tokens.
    """

    stream: str
    epoch: ClockMs
    window: Natural
    start_s: Seconds
    end_s: Seconds
    captured_at_ms: ClockMs
    answered_at_ms: ClockMs
    question: Name
    prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)]
    type: QuestionType
    answer: Annotated[str, msgspec.Meta(max_length=MAX_ANSWER)]
    p_yes: Share | None
    label_probabilities: dict[Annotated[str, msgspec.Meta(max_length=MAX_LABEL)], Share] | None
    frames: Frames
    tokens: Tokens
    flops: Flops
    seconds: Annotated[dict[Name, Seconds], msgspec.Meta(max_length=64)]
    keep: Name
    refresh: Name
    model: Line
    trained: bool
    restarted: bool = False
    error: ResultError | None = None
    skipped: Count32 = 0
    reused_from: Natural | None = None


def encode_result(result: Result) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    frames = {**msgspec.to_builtins(result.frames), "missing": result.frames.missing}
    return result.stream.encode(), dump(result, frames=frames)


def decode_result(key: bytes | None, value: bytes | None) -> Result:
    """The result in a record. Raises MessageError on anything that violates this contract."""
    return load(Result, key, value, "result", p_yes=None, label_probabilities=None)
