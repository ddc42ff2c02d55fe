"""What is asked of a stream: read, changed and written back. Workers apply it at the stream's next window.

The newest description of a stream rules, so two people who change the same stream at the same moment overwrite each other:
the later one wins, and each is told what is asked now.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as ClientError

from codecflow.errors import ConfigError, KafkaError
from codecflow.kafka.clients import consumer, producer, require_broker
from codecflow.kafka.failures import DeliveryError, TopicsError, client_error
from codecflow.kafka.partitions import partition_of
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Question, StreamDescription, check_stream_id, decode_stream, encode_stream

from .results import PASSING

ANSWER_WITHIN_S = 30.0
"""How long the broker may take to hand out or to take a description before that is an error."""


def asked(settings: KafkaSettings, stream: str) -> StreamDescription:
    """What is asked of `stream` now. Raises KafkaError, or MessageError when what lies there is of another version."""
    check_stream_id(stream)
    topic = f"{settings.topic_prefix}.streams"
    place = TopicPartition(topic, partition_of(stream, _partitions(settings, topic)))
    place.offset = OFFSET_BEGINNING
    client = consumer(settings, f"{settings.topic_prefix}-ask", None, **{"enable.partition.eof": True})
    newest: Message | None = None
    deadline = time.monotonic() + ANSWER_WITHIN_S
    try:
        client.assign([place])
        while time.monotonic() < deadline:
            message = client.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                newest = message if message.key() == stream.encode() else newest
            elif error.code() == ClientError._PARTITION_EOF:
                break
            elif error.code() not in PASSING:
                raise KafkaException(error)
        else:
            raise KafkaError(f"{topic}: not read to its end within {ANSWER_WITHIN_S:.0f} s; try again")
    except KafkaException as error:
        raise KafkaError(f"{topic}: cannot be read: {client_error(error).str()}") from error
    finally:
        client.close()
    return StreamDescription(stream) if newest is None else decode_stream(newest.key(), newest.value())


def ask(settings: KafkaSettings, stream: str, question: Question) -> StreamDescription:
    """Ask `question` of `stream` too, in place of one of the same id. What is asked of it now."""
    return _change(settings, stream, lambda questions: (*(q for q in questions if q.id != question.id), question))


def remove(settings: KafkaSettings, stream: str, question_id: str) -> StreamDescription:
    """No longer ask the question `question_id`. Raises ConfigError when it is not asked."""

    def without(questions: tuple[Question, ...]) -> tuple[Question, ...]:
        kept = tuple(question for question in questions if question.id != question_id)
        if len(kept) == len(questions):
            there = ", ".join(question.id for question in questions) or "nothing is asked"
            raise ConfigError(f"stream {stream}: no question {question_id!r} (asked now: {there})")
        return kept

    return _change(settings, stream, without)


def clear(settings: KafkaSettings, stream: str) -> StreamDescription:
    """Ask nothing of `stream` any more."""
    return _change(settings, stream, lambda questions: ())


def question_id(prompt: str) -> str:
    """An id from the words of a prompt: "Is a person in view?" -> "is-a-person-in-view"."""
    words = re.findall(r"\w+", prompt.lower())
    return "-".join(words)[:60].rstrip("-") or "question"


def _change(
    settings: KafkaSettings, stream: str, change: Callable[[tuple[Question, ...]], tuple[Question, ...]]
) -> StreamDescription:
    description = StreamDescription(stream, change(asked(settings, stream).questions))
    topic = f"{settings.topic_prefix}.streams"
    failed: list[ClientError] = []

    def delivered(error: ClientError | None, message: Message) -> None:
        if error is not None:
            failed.append(error)

    key, value = encode_stream(description)
    client = producer(settings)
    client.produce(topic, key=key, value=value, on_delivery=delivered)
    if client.flush(ANSWER_WITHIN_S) or failed:
        why = failed[0].str() if failed else f"no answer within {ANSWER_WITHIN_S:.0f} s"
        raise DeliveryError(f"stream {stream}: its questions were not taken by {topic}: {why}")
    return description


def _partitions(settings: KafkaSettings, topic: str) -> int:
    found = require_broker(settings).list_topics(timeout=ANSWER_WITHIN_S).topics
    if topic not in found:
        raise TopicsError(f"missing topic {topic} at {settings.bootstrap_servers}: run: codecflow topics create")
    return len(found[topic].partitions)
