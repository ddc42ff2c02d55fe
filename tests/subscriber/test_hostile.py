"""Every topic full of records that no writer of ours would write: each reader shows what is good, and ends cleanly."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Producer

from codecflow.kafka.settings import KafkaSettings
from codecflow.page.board import Board
from codecflow.subscriber import EventFollower, Follower
from tests.commands import codecflow
from tests.messages.test_bounds import CASES, FULL, changed
from tests.messages.test_refusals import PICTURE
from tests.worker.running import until

from .example_results import RESULT, commit

TOPICS = {
    "packet": "packets",
    "picture": "metadata",
    "result": "results",
    "failed result": "results",
    "choice result": "results",
    "stream": "streams",
    "state": "state",
    "event": "events",
    "masks": "masks",
    "dead-letter": "dead_letter",
}
KEYS = (b"", b"\xff\xfe", b"a b", b"\x1b[2J", b"k" * 300_000, "\u202e".encode(), b"..", b"-rf", b"__proto__")
VALUES = (None, b"", b"\0" * 1000, b'"\\ud800"', b"[" * 3000, b'{"v":1}', b'{"v":1e400}', b"9" * 5000)
COMPACTED = ("streams", "state")

Foreign = tuple[str, bytes | None, bytes | None, Sequence[tuple[str, bytes | None]] | None]
"""Topic, key, value, headers."""


def foreign() -> Iterator[Foreign]:
    """Values at the edges of what each member allows, of the stream `edge`; values beyond, of `gate`; and what is no
    document at all."""
    for case in CASES:
        name, at, value, fine = case.values
        if name in TOPICS:
            document = json.dumps(changed(orjson.loads(FULL[str(name)][2][1]), at, value)).encode()  # type: ignore[arg-type]
            yield of(str(name), b"edge" if fine else b"gate", document)
    for name, topic in TOPICS.items():
        raw = FULL[name][2][1]
        yield from (of(name, key, raw) for key in KEYS)
        yield from (of(name, b"gate", value) for value in VALUES)
        yield of(name, b"gate", raw[:-1] + b',"v":2}')
        if topic not in COMPACTED:  # brokers refuse it there
            yield of(name, None, raw)
    header = FULL["packet"][2][1]
    for headers in ([("x", bytes(500_000))], [("picture", header)] * 2, [("picture", None)], [("\u202e\x1b", b"")]):
        yield "packets", b"gate", PICTURE.data, headers


def of(name: str, key: bytes | None, document: bytes | None) -> Foreign:
    if name == "packet":
        return TOPICS[name], key, PICTURE.data, [("picture", document)]
    return TOPICS[name], key, document, None


def publish(settings: KafkaSettings) -> None:
    client = Producer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    failures: list[object] = []
    for topic, key, value, headers in foreign():
        client.produce(
            getattr(settings.topics, topic),
            key=key,
            value=value,
            headers=headers,  # type: ignore[arg-type]
            on_delivery=lambda error, _: failures.append(error) if error is not None else None,
        )
    assert client.flush(120) == 0
    assert failures == []


def test_every_reader_outlives_every_record(
    kafka_settings: KafkaSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = replace(RESULT, answer="no", p_yes=0.125), replace(RESULT, window=9)
    commit(kafka_settings, [first])
    publish(kafka_settings)
    commit(kafka_settings, [last])
    at = ("--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", kafka_settings.topic_prefix)
    for command, statuses in (
        (("history",), {0}),
        (("history", "--format", "csv", "--changes"), {0}),
        (("history", "--events"), {0}),
        (("history", "--events", "-o", tmp_path / "events.parquet"), {0}),
        (("streams",), {0}),
        (("streams", "--json"), {0}),
        (("dead-letters", "--records"), {0}),
        (("dead-letters", "--json"), {0}),
        (("ask", "edge", "--list"), {0, 5}),
        (("stream", "gate"), {5}),
        (("topics", "clean", "--dry-run"), {0}),
        (("clip", "edge", "--from", "0", "--to", "3", "-o", tmp_path / "clip.mp4"), {3}),
    ):
        done = codecflow(*command, *at)
        assert done.returncode in statuses, (command, done)
        shown = done.stdout + done.stderr
        assert all(line.isprintable() for line in shown.splitlines()), (command, shown)
        assert done.stderr.count("\n") <= 2, (command, done.stderr)
    with caplog.at_level(logging.WARNING):
        with Follower(kafka_settings, "gate", from_beginning=True, stopping=lambda: True) as results:
            found = list(results)
        assert (found[0], found[-1]) == (first, last)
        with EventFollower(kafka_settings, from_beginning=True, stopping=lambda: True) as events:
            assert {event.stream for event in events} >= {"edge", "..", "-rf"}
        failures: list[Exception] = []
        locked = threading.Lock()

        def post(call: object) -> None:
            with locked:
                call()  # type: ignore[operator]

        board = Board(kafka_settings, post, lambda *_: None, failures.append)
        board.start()
        until(
            lambda: (
                bool(failures) or bool((one := board.streams.get("gate")) and one.history and one.history[-1]["w"] == 9)
            ),
            what="the page has the last answer",
        )
        board.close()
    assert failures == []
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("codecflow")]
    assert [line for line in lines if not line.isprintable()] == []
    assert len(lines) <= 10 * 6  # ten of each topic, of which two are read twice
