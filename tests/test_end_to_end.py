"""A real run, service by service, with every record validated against the contract in schemas/."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message

from codecflow import subscriber
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import (
    EndOfEpoch,
    Result,
    decode_dead_letter,
    decode_metadata,
    decode_packet,
    decode_state,
    encode_stream,
)
from codecflow.vlm.tiny import make_tiny

from .clips import cut
from .messages.contract import check, check_headers
from .subscriber.example_results import publish_raw

pytestmark = pytest.mark.slow

QUESTIONS = [
    subscriber.question("Is a person in view?", yes_no=True, name="person"),
    subscriber.question("Where is the person?", choices=["left", "right", "nowhere"], name="place"),
    subscriber.question("What is to be seen?", name="scene", max_tokens=4),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut(9, tmp_path_factory.mktemp("clip") / "nine seconds.mp4")


@pytest.fixture(scope="module")
def run(kafka: Any, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> KafkaSettings:
    """Topics after a run of nine seconds in windows of eight every four: two windows, three questions each."""
    from codecflow.kafka.topics import create_topics

    settings = KafkaSettings(kafka.bootstrap_servers, f"e{uuid.uuid4().hex[:12]}", reach_within_s=60.0)
    create_topics(settings, partitions=2)
    model = make_tiny(tmp_path_factory.mktemp("model") / "tiny", image_size=112)
    for question in QUESTIONS:
        subscriber.ask(settings, "gate", question)
    publish_raw(settings, "packets", "gate", b"not a picture, and no headers")
    codecflow("produce", str(clip), "--stream", "gate", "--fast", settings=settings)
    codecflow(
        *("worker", "--model", str(model), "--until-end"),
        *("--window", "8", "--stride", "4", "--coverage", "4"),
        settings=settings,
    )
    return settings


LOGGED: dict[str, list[dict[str, Any]]] = {}
"""The stderr lines of commands, by command."""


def codecflow(*command: str, settings: KafkaSettings) -> None:
    at = ("--bootstrap-servers", settings.bootstrap_servers, "--topic-prefix", settings.topic_prefix)
    done = subprocess.run(
        [sys.executable, "-m", "codecflow", *command, *at],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={**os.environ, "CODECFLOW_LOG": "info", "CODECFLOW_LOG_FORMAT": "json"},
    )
    assert done.returncode == 0, done.stderr
    # Libraries' own output is text.
    LOGGED[command[0]] = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert not [line for line in done.stderr.splitlines() if "codecflow" in line and not line.startswith("{")]


def records(settings: KafkaSettings, name: str) -> list[Message]:
    with TopicTail(settings, f"{settings.topic_prefix}.{name}") as tail:
        return tail.catch_up()


def test_pictures_and_metadata_are_two_equal_sequences(run: KafkaSettings) -> None:
    foreign, *packets = records(run, "packets")
    assert foreign.value() == b"not a picture, and no headers"
    pictures = [decode_packet(record.key(), record.value(), record.headers()) for record in packets]  # type: ignore[arg-type]
    for record in packets:
        check_headers(record.headers())  # type: ignore[arg-type]
    documents = []
    for record in records(run, "metadata"):
        check("metadata", record.value() or b"")
        documents.append(decode_metadata(record.key(), record.value()))
    *metadata, end = documents
    assert end == EndOfEpoch("gate", pictures[0].epoch, len(pictures))
    keys = [(picture.epoch, picture.seq, picture.pts, len(picture.data)) for picture in pictures]
    assert keys == [(m.epoch, m.seq, m.pts, m.size) for m in metadata if not isinstance(m, EndOfEpoch)]
    assert [key[1] for key in keys] == list(range(len(keys)))
    assert sum(m.signal is not None for m in metadata if not isinstance(m, EndOfEpoch)) == 19


def test_every_window_has_one_result_a_question(run: KafkaSettings) -> None:
    for record in records(run, "results"):
        check("result", record.value() or b"")
    with subscriber.Follower(run, from_beginning=True, stopping=lambda: True) as follower:
        results = list(follower)
    assert [(r.window, r.question) for r in results] == [(n, q.id) for n in (0, 1) for q in QUESTIONS]
    assert [(r.start_s, r.end_s) for r in results[::3]] == [(0.0, 4.0), (0.0, 8.0)]
    for result, question in zip(results, QUESTIONS * 2, strict=True):
        assert (result.prompt, result.type, result.trained) == (question.prompt, question.type, False)
        assert result.frames.missing == 0
        assert 0 < result.flops.vit + result.flops.llm < result.flops.full
        assert_answer(result)


def assert_answer(result: Result) -> None:
    assert (result.p_yes is not None) == (result.type == "yes-no")
    assert (result.label_probabilities is not None) == (result.type == "choice")
    if result.p_yes is not None:
        assert result.answer == ("yes" if result.p_yes >= 0.5 else "no")
    if result.label_probabilities is not None:
        assert sum(result.label_probabilities.values()) == pytest.approx(1)
        assert result.answer == max(result.label_probabilities, key=lambda label: result.label_probabilities[label])  # type: ignore[index]


def test_logs_are_json_documents_that_say_which_window(run: KafkaSettings) -> None:
    assert LOGGED.keys() == {"produce", "worker"}
    assert all({"time", "level", "logger", "message"} <= one.keys() for lines in LOGGED.values() for one in lines)
    state = records(run, "state")[-1]
    epoch = decode_state(state.key(), state.value()).epoch
    windows = [one for one in LOGGED["worker"] if "window" in one]
    assert [(one["stream"], one["epoch"], one["window"]) for one in windows] == [("gate", epoch, 0), ("gate", epoch, 1)]
    assert {one["level"] for one in LOGGED["worker"] if "random, not trained" in one["message"]} == {"warning"}


def test_descriptions_state_and_dead_letters_are_of_the_contract(run: KafkaSettings) -> None:
    descriptions = records(run, "streams")
    for record in descriptions:
        check("stream", record.value() or b"")
    assert descriptions[-1].value() == encode_stream(subscriber.read_description(run, "gate"))[1]
    states = records(run, "state")
    for record in states:
        check("state", record.value() or b"")
    state = decode_state(states[-1].key(), states[-1].value())
    assert (state.answered_until, state.ended) == (2 * state.plan.stride_slots / state.plan.fps, True)
    (letter,) = records(run, "dead-letter")
    check("dead-letter", letter.value() or b"")
    printed = asdict(decode_dead_letter(letter.key(), letter.value()))
    assert (printed["topic"], printed["offset"], printed["stream"]) == (run.topics.packets, 0, "gate")
