"""codecflow.streams: what is asked of a stream. Compacted: the newest value rules, applied at the next window."""

from __future__ import annotations

import re
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Literal, get_args

from codecflow.errors import ConfigError, MessageError

from ._wire import dump, field, load, stream_of

QuestionType = Literal["text", "yes-no", "choice"]
QUESTION_TYPES: tuple[str, ...] = get_args(QuestionType)

_STREAM_ID = re.compile(r"[A-Za-z0-9._:-]{1,200}")


def check_stream_id(stream: str) -> str:
    """`stream` itself. Raises ConfigError when it is no stream id."""
    if not _STREAM_ID.fullmatch(stream):
        raise ConfigError(f"stream id {stream!r}: use 1 to 200 letters, digits, '.', '_', ':' or '-'")
    return stream


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt asked of every window of a stream.

    `labels`: the answers to choose among (`choice` only). `max_tokens`: limit of a `text` answer.
    """

    id: str
    prompt: str
    type: QuestionType = "text"
    labels: tuple[str, ...] = ()
    max_tokens: int = 32

    def __post_init__(self) -> None:
        if self.type not in QUESTION_TYPES:
            raise ConfigError(f"question type {self.type!r}: use one of {', '.join(QUESTION_TYPES)}")
        if not self.id or not self.prompt.strip():
            raise ConfigError("a question needs an id and a prompt that is not empty")
        if (self.type == "choice") != (len(self.labels) >= 2):
            raise ConfigError(f"question {self.id!r}: two or more labels go with type choice, and only with it")
        if not 1 <= self.max_tokens <= 1024:
            raise ConfigError(f"question {self.id!r}: max_tokens {self.max_tokens} is not within 1 to 1024")


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """The questions of one stream. An empty list asks nothing: the stream is followed but not answered."""

    stream: str
    questions: tuple[Question, ...] = dataclass_field(default=())


def encode_stream(description: StreamDescription) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    questions: list[dict[str, Any]] = []
    for question in description.questions:
        document: dict[str, Any] = {"id": question.id, "prompt": question.prompt, "type": question.type}
        if question.type == "choice":
            document["labels"] = list(question.labels)
        if question.type == "text":
            document["max_tokens"] = question.max_tokens
        questions.append(document)
    return description.stream.encode(), dump({"questions": questions})


def decode_stream(key: bytes | None, value: bytes | None) -> StreamDescription:
    """The description in a record; a tombstone (no value) asks nothing. Raises MessageError."""
    what = "stream"
    stream = stream_of(key, what)
    if value is None:
        return StreamDescription(stream)
    questions = []
    for entry in field(load(value, what), "questions", list, what):
        if not isinstance(entry, dict):
            raise MessageError(f"{what}: a question must be an object, not {entry!r}"[:300])
        try:
            questions.append(
                Question(
                    id=field(entry, "id", str, what),
                    prompt=field(entry, "prompt", str, what),
                    type=field(entry, "type", str, what),  # type: ignore[arg-type]  # checked by Question itself
                    labels=_labels(entry, what) if "labels" in entry else (),
                    max_tokens=field(entry, "max_tokens", int, what) if "max_tokens" in entry else 32,
                )
            )
        except ConfigError as error:
            raise MessageError(f"{what}: {error}") from error
    return StreamDescription(stream, tuple(questions))


def _labels(entry: dict[str, Any], what: str) -> tuple[str, ...]:
    labels = field(entry, "labels", list, what)
    if not all(isinstance(label, str) for label in labels):
        raise MessageError(f"{what}: labels must be texts, not {labels!r}"[:300])
    return tuple(labels)
