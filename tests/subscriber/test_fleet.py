"""`codecflow streams` and `codecflow dead-letters` on a real broker."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from fractions import Fraction

from codecflow import subscriber
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import (
    MAX_CLOCK_MS,
    DeadLetter,
    EndOfEpoch,
    PictureMetadata,
    ResultError,
    StreamState,
    WindowGrid,
    encode_dead_letter,
    encode_metadata,
    encode_state,
)
from codecflow.subscriber.fleet import SILENT_AFTER_S, Fleet
from tests.commands import Done, codecflow

from .example_results import RESULT, commit, publish_raw

EPOCH = RESULT.epoch
HOSTILE = "\x1b[2Jyes\n\u202eno"


def command(settings: KafkaSettings, *arguments: str) -> Done:
    at = ("--bootstrap-servers", settings.bootstrap_servers, "--topic-prefix", settings.topic_prefix)
    return codecflow(*arguments, *at)


def send(settings: KafkaSettings, topic: str, *records: tuple[bytes, bytes]) -> None:
    with RecordSender(settings) as sender:
        for key, value in records:
            sender.send(Record(f"{settings.topic_prefix}.{topic}", key, value, "for a test"))


def pictures(stream: str, count: int) -> list[tuple[bytes, bytes]]:
    return [
        encode_metadata(PictureMetadata(stream, EPOCH, n, n, 0, Fraction(1, 10), "h264", "P", 100))
        for n in range(count)
    ]


def test_every_stream_is_in_the_table_with_its_state(kafka_settings: KafkaSettings) -> None:
    subscriber.ask(kafka_settings, "not-yet", subscriber.question("Is it raining?", yes_no=True))
    subscriber.ask(kafka_settings, "gate", subscriber.question("Is a person in view?", yes_no=True, name="person"))
    send(
        kafka_settings,
        "metadata",
        *pictures("gate", 5),
        *pictures("yard", 3),
        encode_metadata(EndOfEpoch("yard", EPOCH, 3)),
    )
    state = StreamState("old", EPOCH, Fraction(8), WindowGrid(Fraction(2), 80, 16), 0, 0)
    send(kafka_settings, "state", encode_state(state))
    failed = replace(RESULT, window=1, answer="", p_yes=None, error=ResultError("failed", HOSTILE))
    commit(kafka_settings, [RESULT, failed, replace(RESULT, stream="yard", answer=HOSTILE, type="text", p_yes=None)])
    publish_raw(kafka_settings, "results", "gate", b"no result")
    # Of a wrong clock or another program: workers ignore them.
    send(kafka_settings, "state", encode_state(replace(state, stream="gate", epoch=MAX_CLOCK_MS)))
    send(kafka_settings, "metadata", encode_metadata(EndOfEpoch("gate", MAX_CLOCK_MS, 3)))

    listed = command(kafka_settings, "streams", "--json")
    assert listed.returncode == 0, listed.stderr
    assert listed.stderr == "codecflow: 3 records could not be read and were skipped\n"
    found = {one["stream"]: one for one in map(json.loads, listed.stdout.splitlines())}
    assert list(found) == ["gate", "not-yet", "old", "yard"]
    assert found["gate"]["state"] in ("sending", "silent")  # after 10 s, which may pass on a busy machine
    assert [found[name]["state"] for name in ("not-yet", "old", "yard")] == ["expected", "silent", "ended"]
    assert (found["gate"]["answers"], found["gate"]["errors"], found["gate"]["questions"]) == (1, 1, 1)
    assert found["gate"]["tokens_kept_share"] == 0.25
    assert found["gate"]["last"]["error"]["code"] == "failed"
    assert found["yard"]["behind_s"] is None
    table = command(kafka_settings, "streams")
    assert table.returncode == 0
    assert [line.split()[0] for line in table.stdout.splitlines()[2:]] == list(found)
    for out in (listed.stdout, table.stdout):
        assert out.replace("\n", "").isprintable()


def test_what_comes_later_is_taken_in(kafka_settings: KafkaSettings) -> None:
    with Fleet(kafka_settings) as fleet:
        assert fleet.catch_up() == []
        send(kafka_settings, "metadata", *pictures("gate", 2))
        deadline = time.monotonic() + 60
        while not (found := fleet.update()):
            assert time.monotonic() < deadline
        (gate,) = found
        assert gate.seen_ms is not None
        assert gate.state(gate.seen_ms) == "sending"
        assert gate.state(gate.seen_ms + int(SILENT_AFTER_S * 1000)) == "silent"


def test_no_streams_is_a_hint(kafka_settings: KafkaSettings) -> None:
    done = command(kafka_settings, "streams")
    assert "no streams on topics" in done.stdout
    assert "codecflow produce SOURCE --stream ID" in done.stdout


def test_dead_letters_are_counted_by_reason_and_shown(kafka_settings: KafkaSettings) -> None:
    assert "no dead letters" in command(kafka_settings, "dead-letters").stdout
    publish_raw(kafka_settings, "packets", "gate", b"\x1b[2Jnot a picture")
    topic = f"{kafka_settings.topic_prefix}.packets"
    with Fleet(kafka_settings):  # a topic that is being read at the same time
        letters = [DeadLetter(topic, n % 3, 0, "gate", "unreadable", "header 'picture' is missing") for n in range(5)]
        gone = DeadLetter(topic, 0, 10_000, HOSTILE, "failed", HOSTILE)
        send(kafka_settings, "dead-letter", *map(encode_dead_letter, [*letters, gone]))
    publish_raw(kafka_settings, "dead-letter", "gate", b"{}")

    done = command(kafka_settings, "dead-letters", "--records")
    assert done.returncode == 0, done.stderr
    assert "1 records on " in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        f"5 x {topic}, stream 'gate': unreadable: header 'picture' is missing (newest: partition "
    )
    assert "the record is gone (retention)" in lines[3]
    assert done.stdout.replace("\n", "").isprintable()
    counted = [json.loads(line) for line in command(kafka_settings, "dead-letters", "--json").stdout.splitlines()]
    assert [one["count"] for one in counted] == [5, 1]
