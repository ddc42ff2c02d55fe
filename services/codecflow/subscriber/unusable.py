"""Dead letters by reason, and the records that they refer to."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition

from codecflow.errors import MessageError
from codecflow.kafka.clients import consumer
from codecflow.kafka.failures import client_error
from codecflow.kafka.records import headers_of
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.unreadable import NO_GROUP
from codecflow.messages import DeadLetter, decode_dead_letter
from codecflow.text import one_line, visible

_RECORD_WITHIN_S = 10.0
_SHOWN_BYTES = 200


@dataclass(slots=True)
class Group:
    """Dead letters of one topic, stream and code. `newest` of `count`; `first_ms` and `last_ms`: when they were written."""

    newest: DeadLetter
    count: int
    first_ms: int
    last_ms: int


def dead_letters(settings: KafkaSettings) -> tuple[list[Group], int]:
    """All retained dead letters, most frequent first, and how many records on the topic are not dead letters. Raises
    KafkaError."""
    groups: dict[tuple[str, str, str], Group] = {}
    others = 0
    with TopicTail(settings, settings.topics.dead_letter) as tail:
        for message in tail.catch_up():
            try:
                letter = decode_dead_letter(message.key(), message.value())
            except MessageError:
                others += 1
                continue
            _, at_ms = message.timestamp()
            key = (letter.topic, letter.stream, letter.code)
            if (group := groups.get(key)) is None:
                groups[key] = Group(letter, 1, at_ms, at_ms)
            else:
                group.count += 1
                group.newest, group.last_ms = letter, max(at_ms, group.last_ms)
    return sorted(groups.values(), key=lambda group: -group.count), others


def described(settings: KafkaSettings, letters: Iterable[DeadLetter]) -> list[str]:
    """For each letter, what its coordinates hold, in one line that is safe to show. Raises KafkaError."""
    client = consumer(settings, f"{settings.topic_prefix}.tail", None, **{"enable.partition.eof": True})
    try:
        return [_record(client, letter) for letter in letters]
    finally:
        client.close()


def _record(client: Consumer, letter: DeadLetter) -> str:
    place = TopicPartition(letter.topic, letter.partition, letter.offset)
    try:
        first, end = client.get_watermark_offsets(place, timeout=_RECORD_WITHIN_S)
        if not first <= letter.offset < end:
            return "the record is gone (retention)"
        client.assign([place])
        deadline = time.monotonic() + _RECORD_WITHIN_S
        while True:
            message = client.poll(max(0.0, deadline - time.monotonic()))
            failure = None if message is None else message.error()
            if failure is None or failure.code() != NO_GROUP:
                break
    except KafkaException as error:
        return f"the record cannot be read ({one_line(client_error(error).str())})"
    if message is None or message.error() is not None or message.offset() != letter.offset:
        return "the record cannot be read"
    key, value = message.key() or b"", message.value()
    headers = headers_of(message) or []
    names = ", ".join(one_line(name, 40) for name, _ in headers[:8]) or "none"
    text = "no value" if value is None else f"{len(value)} bytes: {_shown(value)}"
    return f"key {_shown(key)}, headers {names}, {text}"


def _shown(value: bytes) -> str:
    text = value[:_SHOWN_BYTES].decode("utf-8", errors="backslashreplace")
    return visible(text) + ("..." if len(value) > _SHOWN_BYTES else "")
