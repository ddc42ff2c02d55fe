"""What is asked of a stream: read, changed and written back. Workers apply it at the stream's next window.

The newest description of a stream rules, so two people who change the same stream at the same moment overwrite each other:
the later one wins, and each is told what is asked now.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from codecflow.errors import ConfigError, MessageError
from codecflow.events.syntax import parse_rule
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail, newest_by_key
from codecflow.messages import Question, StreamDescription, check_stream_id, decode_stream, encode_stream
from codecflow.text import one_line

TAKEN_WITHIN_S = 30.0
"""How long the brokers may take to acknowledge a description before that is an error."""


def asked(settings: KafkaSettings, stream: str) -> StreamDescription:
    """What is asked of `stream` now. Raises KafkaError, or MessageError when what lies there is of another version."""
    key = check_stream_id(stream).encode()
    with TopicTail(settings, settings.topics.streams) as tail:
        newest = newest_by_key(tail.catch_up())
    if key not in newest:
        return StreamDescription(stream)
    try:
        return decode_stream(key, newest[key])
    except MessageError as error:
        raise MessageError(
            f"stream {stream}: its questions cannot be read: {error}; to begin again run: codecflow ask {stream} --clear"
        ) from error


def ask(settings: KafkaSettings, stream: str, question: Question) -> StreamDescription:
    """Ask `question` of `stream` too, in place of one of the same id. What is asked of it now."""
    return _change(settings, stream, lambda questions: (*(q for q in questions if q.id != question.id), question))


def remove(settings: KafkaSettings, stream: str, question_id: str) -> StreamDescription:
    """No longer ask the question `question_id`. Raises ConfigError when it is not asked."""

    def without(questions: tuple[Question, ...]) -> tuple[Question, ...]:
        kept = tuple(question for question in questions if question.id != question_id)
        if len(kept) == len(questions):
            there = ", ".join(question.id for question in questions) or "nothing"
            raise ConfigError(
                f"stream {stream}: no question {one_line(question_id, 60)!r} (asked now: {one_line(there, 300)})"
            )
        return kept

    return _change(settings, stream, without)


def clear(settings: KafkaSettings, stream: str) -> StreamDescription:
    """Remove all questions of `stream`, also those of a description that cannot be read."""
    return _write(settings, StreamDescription(check_stream_id(stream)))


def question(
    prompt: str,
    *,
    yes_no: bool = False,
    choices: Sequence[str] = (),
    name: str | None = None,
    max_tokens: int = 32,
    event: str | None = None,
) -> Question:
    """A question of the type that the arguments make it; named by its words, where no name is given. `event`: its rule, as
    `codecflow ask --event` takes it. Raises ConfigError."""
    if yes_no and choices:
        raise ConfigError(f"question {one_line(prompt, 60)!r}: yes-no and a choice exclude each other")
    return Question(
        id=question_id(prompt) if name is None else name,
        prompt=prompt,
        type="yes-no" if yes_no else "choice" if choices else "text",
        labels=tuple(label.strip() for label in choices),
        max_tokens=max_tokens,
        event=None if event is None else parse_rule(event),
    )


def question_id(prompt: str) -> str:
    """An id from the words of a prompt: "Is a person in view?" -> "is-a-person-in-view"."""
    words = re.findall(r"\w+", prompt.lower())
    return "-".join(words)[:60].rstrip("-") or "question"


def _change(
    settings: KafkaSettings, stream: str, change: Callable[[tuple[Question, ...]], tuple[Question, ...]]
) -> StreamDescription:
    return _write(settings, StreamDescription(stream, change(asked(settings, stream).questions)))


def _write(settings: KafkaSettings, description: StreamDescription) -> StreamDescription:
    stream = description.stream
    key, value = encode_stream(description)
    with RecordSender(settings) as sender:
        sender.send(Record(settings.topics.streams, key, value, f"stream {stream}, its questions"))
        sender.flush(TAKEN_WITHIN_S)
    return description
