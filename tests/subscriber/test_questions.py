"""A stream's questions: added, replaced, removed, and read by the next program."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codecflow import subscriber
from codecflow.errors import ConfigError, KafkaError, MessageError
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Question, StreamDescription
from codecflow.subscriber.fleet import Fleet
from codecflow.subscriber.questions import question_id

from .example_results import publish_raw

PERSON = Question("person", "Is a person in view?", "yes-no")
SCENE = Question("scene", "What is to be seen?", max_tokens=12)


def test_questions_are_added_replaced_and_removed(kafka_settings: KafkaSettings) -> None:
    assert subscriber.read_description(kafka_settings, "gate") == StreamDescription("gate")
    subscriber.ask(kafka_settings, "gate", PERSON)
    subscriber.ask(kafka_settings, "gate", SCENE)
    assert subscriber.read_description(kafka_settings, "gate").questions == (PERSON, SCENE)
    instead = Question("person", "Is anybody there?", "yes-no")
    assert subscriber.ask(kafka_settings, "gate", instead).questions == (SCENE, instead)
    assert subscriber.remove(kafka_settings, "gate", "scene").questions == (instead,)
    assert subscriber.clear(kafka_settings, "gate").questions == ()
    assert subscriber.read_description(kafka_settings, "gate").questions == ()


def test_streams_do_not_mix(kafka_settings: KafkaSettings) -> None:
    """Enough that several share a partition."""
    streams = [f"camera-{number}" for number in range(5)]
    for stream in streams:
        subscriber.ask(kafka_settings, stream, Question(stream, f"Is this {stream}?"))
    for stream in streams:
        assert [question.id for question in subscriber.read_description(kafka_settings, stream).questions] == [stream]


def test_removing_what_is_not_asked_says_what_is(kafka_settings: KafkaSettings) -> None:
    subscriber.ask(kafka_settings, "gate", PERSON)
    with pytest.raises(ConfigError, match=r"no question 'car' \(its questions: person\)"):
        subscriber.remove(kafka_settings, "gate", "car")


@pytest.mark.parametrize("readable", [True, False])
def test_a_description_is_deleted_once(kafka_settings: KafkaSettings, readable: bool) -> None:
    if readable:
        subscriber.ask(kafka_settings, "gate", PERSON)
    else:
        publish_raw(kafka_settings, "streams", "gate", b'{"v":2,"questions":[]}')
    subscriber.delete_description(kafka_settings, "gate")
    assert subscriber.read_description(kafka_settings, "gate") == StreamDescription("gate")
    with Fleet(kafka_settings) as fleet:
        assert fleet.catch_up() == []
    with pytest.raises(ConfigError, match="stream gate: has no description to delete"):
        subscriber.delete_description(kafka_settings, "gate")


def test_a_description_of_another_version_is_not_overwritten(kafka_settings: KafkaSettings) -> None:
    """Written by a newer program: replacing it would lose data."""
    publish_raw(kafka_settings, "streams", "gate", b'{"v":2,"questions":[]}')
    with pytest.raises(MessageError, match="version 2"):
        subscriber.ask(kafka_settings, "gate", PERSON)


def test_without_topics_it_says_what_to_do(kafka_settings: KafkaSettings) -> None:
    elsewhere = replace(kafka_settings, topic_prefix="nothing-here")
    with pytest.raises(KafkaError, match=r"topic nothing-here\.streams is missing: run: codecflow topics create"):
        subscriber.ask(elsewhere, "gate", PERSON)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("Is a person in view?", "is-a-person-in-view"),
        ("  Wie ist das Wetter, schön? ", "wie-ist-das-wetter-schön"),
        ("???", "question"),
        ("word " * 40, "-".join(["word"] * 12)),
    ],
)
def test_an_id_is_made_of_the_prompts_words(prompt: str, wanted: str) -> None:
    assert question_id(prompt) == wanted
