"""A stream's questions: read, changed and written back. Workers apply them at the stream's next window.

The newest description of a stream applies, so two people who change the same stream at the same moment overwrite each other:
the later one wins, and each gets the resulting questions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from codecflow.errors import ConfigError, MessageError
from codecflow.events.syntax import parse_rule
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail, newest_by_key
from codecflow.kafka.topics import partition_of
from codecflow.messages import (
    Question,
    StreamDescription,
    check_stream_id,
    decode_stream,
    encode_stream,
    zones_in_prompt,
)
from codecflow.text import one_line

ACK_WITHIN_S = 30.0
"""Time limit for the brokers to acknowledge a description."""


def read_description(settings: KafkaSettings, stream: str) -> StreamDescription:
    """The current description of `stream`. Raises KafkaError, or MessageError when the stored one has another version."""
    value = _newest(settings, stream)
    try:
        return decode_stream(stream.encode(), value)
    except MessageError as error:
        raise MessageError(
            f"stream {stream}: its questions cannot be read: {error}; to begin again run: codecflow ask {stream} --clear"
        ) from error


def ask(settings: KafkaSettings, stream: str, question: Question) -> StreamDescription:
    """Add `question` to `stream`, replacing one with the same id; returns the new description. Raises ConfigError when it is
    about a zone that the model never sees."""

    def added(description: StreamDescription) -> tuple[Question, ...]:
        for zone in zones_in_prompt(question.prompt, description.zones):
            if zone.use == "ignore":
                raise ConfigError(
                    f"stream {stream}: the model never sees the zone {one_line(zone.name, 60)!r}, which is ignored; ask "
                    f"about another zone, or change that one: codecflow stream {stream} --zones FILE"
                )
        return (*(q for q in description.questions if q.id != question.id), question)

    return _change(settings, stream, added)


def remove(settings: KafkaSettings, stream: str, question_id: str) -> StreamDescription:
    """Remove the question `question_id`. Raises ConfigError when there is none."""

    def without(description: StreamDescription) -> tuple[Question, ...]:
        questions = description.questions
        kept = tuple(question for question in questions if question.id != question_id)
        if len(kept) == len(questions):
            there = ", ".join(question.id for question in questions) or "nothing"
            raise ConfigError(
                f"stream {stream}: no question {one_line(question_id, 60)!r} (its questions: {one_line(there, 300)})"
            )
        return kept

    return _change(settings, stream, without)


def clear(settings: KafkaSettings, stream: str) -> StreamDescription:
    """Remove all questions of `stream`, and all of a description that cannot be read."""
    try:
        description = read_description(settings, stream)
    except MessageError:
        description = StreamDescription(stream)
    return write(settings, replace(description, questions=()))


def delete_description(settings: KafkaSettings, stream: str) -> None:
    """Delete the description of `stream` (questions, rules, zones), even one that cannot be read. Raises ConfigError when
    there is none."""
    if _newest(settings, stream) is None:
        raise ConfigError(f"stream {stream}: has no description to delete")
    _publish(settings, stream, stream.encode(), None)


def question(
    prompt: str,
    *,
    yes_no: bool = False,
    choices: Sequence[str] = (),
    name: str | None = None,
    max_tokens: int = 32,
    event: str | None = None,
) -> Question:
    """A question of the type implied by the arguments; its id is made from its words if no name is given. `event`: its rule,
    as `codecflow ask --event` takes it. Raises ConfigError."""
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
    settings: KafkaSettings, stream: str, change: Callable[[StreamDescription], tuple[Question, ...]]
) -> StreamDescription:
    description = read_description(settings, stream)
    return write(settings, replace(description, questions=change(description)))


def write(settings: KafkaSettings, description: StreamDescription) -> StreamDescription:
    """Publish a description, which applies from the stream's next window on. Raises KafkaError."""
    _publish(settings, description.stream, *encode_stream(description))
    return description


def _newest(settings: KafkaSettings, stream: str) -> bytes | None:
    """The newest record of a stream in its partition, whatever it holds."""
    key = check_stream_id(stream).encode()
    with TopicTail(settings, settings.topics.streams) as tail:
        records = tail.catch_up()
        home = partition_of(stream, tail.partitions)
    return newest_by_key(record for record in records if record.partition() == home).get(key)


def _publish(settings: KafkaSettings, stream: str, key: bytes, value: bytes | None) -> None:
    """`value`: None for a tombstone, after which compaction removes the description."""
    with RecordSender(settings) as sender:
        sender.send(Record(settings.topics.streams, key, value, f"stream {stream}, its description"))
        sender.flush(ACK_WITHIN_S)
