"""codecflow.streams: questions and zones of a stream. Compacted: the newest value applies, from the next window on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Annotated, Any, Literal, get_args

import msgspec

from codecflow.errors import ConfigError
from codecflow.text import one_line

from ._wire import REFUSALS, Version, check_length, dump, is_stream_id, refused, stream_of
from .limits import (
    MAX_ANSWER_TOKENS,
    MAX_CORNERS,
    MAX_LABEL,
    MAX_LABELS,
    MAX_NAME,
    MAX_PROMPT,
    MAX_QUESTIONS,
    MAX_ZONES,
)
from .rules import EventRule
from .zones import Zone, ZoneUse, check_zones, zones_in_prompt

QuestionType = Literal["text", "yes-no", "choice"]
QUESTION_TYPES: tuple[str, ...] = get_args(QuestionType)
YES_NO = ("yes", "no")
"""The answers of a yes-no question."""


def check_stream_id(stream: str) -> str:
    """Returns `stream`. Raises ConfigError when it is not a valid stream id."""
    if not is_stream_id(stream):
        shown = one_line(stream, 60)
        raise ConfigError(f"stream id {shown!r}: use 1 to 200 letters, digits, '.', '_', ':' or '-'")
    return stream


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt asked of every window of a stream.

    `labels`: the possible answers (`choice` only). `max_tokens`: limit of a `text` answer. `event`: when a change in its
    answers is an event. Raises ConfigError on anything that could not be answered, including blank or equal labels, and on a
    rule that could not fire.
    """

    id: str
    prompt: str
    type: QuestionType = "text"
    labels: tuple[str, ...] = ()
    max_tokens: int = 32
    event: EventRule | None = None

    def __post_init__(self) -> None:
        name = f"question {one_line(self.id, 60)!r}"
        if self.type not in QUESTION_TYPES:
            raise ConfigError(f"{name}: type {one_line(self.type, 60)!r}; use one of {', '.join(QUESTION_TYPES)}")
        if not self.id.strip() or not self.prompt.strip():
            raise ConfigError("a question needs an id and a prompt that are not empty")
        for what, text, limit in (("id", self.id, MAX_NAME), ("prompt", self.prompt, MAX_PROMPT)):
            _check_text(f"{name}: its {what}", text, limit)
        if (self.type == "choice") != (len(self.labels) >= 2):
            raise ConfigError(f"{name}: type choice requires two or more labels, other types none")
        if len(self.labels) > MAX_LABELS:
            raise ConfigError(f"{name}: {len(self.labels)} labels; at most {MAX_LABELS} are allowed")
        for label in self.labels:
            if not label.strip():
                raise ConfigError(f"{name}: a label is empty; give every label at least one character")
            _check_text(f"{name}: a label", label, MAX_LABEL)
        if len({label.strip() for label in self.labels}) != len(self.labels):
            raise ConfigError(f"{name}: two labels are equal; each must occur once")
        if not 1 <= self.max_tokens <= MAX_ANSWER_TOKENS:
            raise ConfigError(f"{name}: max_tokens {self.max_tokens} is not within 1 to {MAX_ANSWER_TOKENS}")
        self._check_event(name)

    @property
    def answers(self) -> tuple[str, ...]:
        """The possible answers, each with a probability; none for free text."""
        return YES_NO if self.type == "yes-no" else tuple(label.strip() for label in self.labels)

    def _check_event(self, name: str) -> None:
        if self.event is None:
            return
        if not self.answers:
            raise ConfigError(
                f"{name}: an event cannot fire on a text answer, which has no probability: ask it as a yes-no question or "
                f"with a choice of labels"
            )
        label = self.event.label
        if label is not None and label not in self.answers:
            raise ConfigError(
                f"{name}: an event of {one_line(label, 60)!r} cannot fire: it is not among the answers "
                f"{one_line(', '.join(self.answers), 200)}"
            )


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """The questions and zones of one stream. Without questions the stream is followed but not answered. Raises ConfigError
    on more than 64 questions or 32 zones, and on two of one id or name."""

    stream: str
    questions: tuple[Question, ...] = dataclass_field(default=())
    zones: tuple[Zone, ...] = dataclass_field(default=())

    def __post_init__(self) -> None:
        if len(self.questions) > MAX_QUESTIONS:
            raise ConfigError(
                f"stream {self.stream}: {len(self.questions)} questions; at most {MAX_QUESTIONS} are allowed"
            )
        if len({question.id for question in self.questions}) != len(self.questions):
            raise ConfigError(f"stream {self.stream}: two questions have one id")
        check_zones(f"stream {self.stream}", self.zones)

    @property
    def resolved_questions(self) -> tuple[Question, ...]:
        """The questions as given to a model: with the position of each zone that they name, in words, if there is room."""
        questions = []
        for question in self.questions:
            prompt = " ".join([question.prompt, *(zone.words for zone in zones_in_prompt(question.prompt, self.zones))])
            questions.append(question if len(prompt) > MAX_PROMPT else replace(question, prompt=prompt))
        return tuple(questions)


class _Question(msgspec.Struct):
    id: str
    prompt: str
    type: QuestionType
    labels: tuple[str, ...] = ()
    max_tokens: int = 32
    event: EventRule | None = None


class _Zone(msgspec.Struct):
    name: str
    use: ZoneUse
    polygon: Annotated[list[tuple[float, float]], msgspec.Meta(max_length=MAX_CORNERS)]


class _Description(msgspec.Struct):
    v: Version
    questions: Annotated[list[_Question], msgspec.Meta(max_length=MAX_QUESTIONS)]
    zones: Annotated[list[_Zone], msgspec.Meta(max_length=MAX_ZONES)] = []


_decode = msgspec.json.Decoder(_Description).decode


def encode_stream(description: StreamDescription) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    questions: list[dict[str, Any]] = []
    for question in description.questions:
        document: dict[str, Any] = {"id": question.id, "prompt": question.prompt, "type": question.type}
        if question.type == "choice":
            document["labels"] = list(question.labels)
        if question.type == "text":
            document["max_tokens"] = question.max_tokens
        if question.event is not None:
            document["event"] = msgspec.to_builtins(question.event)
        questions.append(document)
    zones = [{"name": one.name, "use": one.use, "polygon": one.polygon} for one in description.zones] or None
    return description.stream.encode(), dump(description, questions=questions, zones=zones)


def decode_stream(key: bytes | None, value: bytes | None) -> StreamDescription:
    """The description in a record; a tombstone (no value) gives an empty one. Raises MessageError."""
    what = "stream"
    stream = stream_of(key, what)
    if value is None:
        return StreamDescription(stream)
    check_length(value, what)
    try:
        described = _decode(value)
        questions = (
            Question(one.id, one.prompt, one.type, one.labels, one.max_tokens, one.event) for one in described.questions
        )
        zones = (Zone(one.name, one.use, tuple(one.polygon)) for one in described.zones)
        return StreamDescription(stream, tuple(questions), tuple(zones))
    except (*REFUSALS, ConfigError) as error:
        raise refused(value, what, error) from error


def _check_text(what: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise ConfigError(f"{what} has {len(text)} characters; at most {limit} are allowed")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(f"{what} is not valid UTF-8")
