"""codecflow.results: one JSON document a (window, question)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ._wire import dump, field, load, numbers, stream_of


@dataclass(frozen=True, slots=True)
class Frames:
    """Sampled frames of the window: how many it should hold, and how many the worker had."""

    expected: int
    seen: int

    @property
    def missing(self) -> int:
        return self.expected - self.seen


@dataclass(frozen=True, slots=True)
class Tokens:
    """Visual tokens. Of this stride's new frames `kept` of `total` were encoded. Of the tokens in the window's KV cache
    when the answer was given, `refreshed` were computed for this window (new ones included), `reused` were not."""

    kept: int
    total: int
    refreshed: int
    reused: int


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations (a multiply-add is two) for this window, shared out over its questions.

    `full` is what keep `all` with refresh `all` would have executed for the same window and question.
    """

    vit: int
    llm: int
    full: int


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one question about one window.

    Window `window` covers presentation times [start_s, end_s) of its epoch, in seconds. `captured_at_ms`: wall clock of the
    newest frame's capture, `answered_at_ms` of the answer. `p_yes`: for yes-no questions, the probability of yes among
    yes and no. `label_probabilities`: for choice questions, by label. `seconds`: by stage. `restarted`: the window was
    rebuilt after a take-over, so under refresh `none` and `anchors` its KV lacks the context of frames evicted before.
    `trained`: False where the checkpoint says that its weights are random.
    """

    stream: str
    epoch: int
    window: int
    start_s: float
    end_s: float
    captured_at_ms: int
    answered_at_ms: int
    question: str
    prompt: str
    type: str
    answer: str
    p_yes: float | None
    label_probabilities: dict[str, float] | None
    frames: Frames
    tokens: Tokens
    flops: Flops
    seconds: dict[str, float]
    keep: str
    refresh: str
    model: str
    trained: bool
    restarted: bool = False


def encode_result(result: Result) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    document = asdict(result)
    stream = document.pop("stream")
    document["frames"]["missing"] = result.frames.missing
    for name in ("p_yes", "label_probabilities"):
        if document[name] is None:
            del document[name]
    return stream.encode(), dump(document)


def decode_result(key: bytes | None, value: bytes | None) -> Result:
    """The result in a record. Raises MessageError on anything that is not of this contract."""
    what = "result"
    stream = stream_of(key, what)
    document = load(value, what)
    frames, tokens, flops = (field(document, name, dict, what) for name in ("frames", "tokens", "flops"))

    def integers(part: dict[str, Any], *names: str) -> list[int]:
        return [field(part, name, int, what) for name in names]

    return Result(
        stream=stream,
        epoch=field(document, "epoch", int, what),
        window=field(document, "window", int, what),
        start_s=field(document, "start_s", float, what),
        end_s=field(document, "end_s", float, what),
        captured_at_ms=field(document, "captured_at_ms", int, what),
        answered_at_ms=field(document, "answered_at_ms", int, what),
        question=field(document, "question", str, what),
        prompt=field(document, "prompt", str, what),
        type=field(document, "type", str, what),
        answer=field(document, "answer", str, what),
        p_yes=field(document, "p_yes", float, what) if "p_yes" in document else None,
        label_probabilities=(
            numbers(document, "label_probabilities", what) if "label_probabilities" in document else None
        ),
        frames=Frames(*integers(frames, "expected", "seen")),
        tokens=Tokens(*integers(tokens, "kept", "total", "refreshed", "reused")),
        flops=Flops(*integers(flops, "vit", "llm", "full")),
        seconds=numbers(document, "seconds", what),
        keep=field(document, "keep", str, what),
        refresh=field(document, "refresh", str, what),
        model=field(document, "model", str, what),
        trained=field(document, "trained", bool, what),
        restarted=field(document, "restarted", bool, what),
    )
