"""Records from unauthorised writers: each affects at most its own stream, and there is a way to recover."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from codecflow.cli.app import build
from codecflow.kafka.compacted import find_unusable
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import partition_of
from codecflow.messages import (
    Question,
    StreamDescription,
    StreamState,
    WindowGrid,
    encode_metadata,
    encode_packet,
    encode_state,
    encode_stream,
)
from codecflow.subscriber.questions import read_description
from codecflow.vlm.families import Family
from tests.conftest import PARTITIONS

from .memory import Published, publish
from .running import Running, once, results, send
from .test_reports import letters

GRID = WindowGrid(Fraction(2), 12, 4)
HOUR_MS = 3_600_000


def bomb(settings: KafkaSettings, topic: str, key: bytes, codec: str, nbytes: int, partition: int = -1) -> None:
    """A record of a few kilobytes that unpacks to `nbytes`."""
    client = Producer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "compression.type": codec,
            "message.max.bytes": 500_000_000,
            "batch.size": 500_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
            "partitioner": "murmur2_random",
        }
    )
    failures: list[object] = []
    client.produce(
        topic, key=key, value=bytes(nbytes), partition=partition, on_delivery=lambda e, _: failures.append(e)
    )
    assert client.flush(60) == 0
    assert failures == [None]


@pytest.fixture
def good(clip: Path) -> Published:
    """Stream a, with an epoch that started now."""
    pictures, documents = publish(clip, "a")
    now = int(time.time() * 1000)
    return [replace(one, epoch=now) for one in pictures], [replace(one, epoch=now) for one in documents]


def test_records_that_unpack_large_and_epochs_of_the_future(
    kafka_settings: KafkaSettings, family: Family, good: Published
) -> None:
    """A batch beyond the client's limit would be read again indefinitely if it were not skipped."""
    names, home = kafka_settings.topics, partition_of("a", PARTITIONS)
    ahead = good[0][0].epoch + HOUR_MS + 60_000
    future = [replace(good[0][0], epoch=ahead)], [replace(good[1][0], epoch=ahead)]
    bomb(kafka_settings, names.packets, b"a", "zstd", 110_000_000)
    for codec in ("gzip", "lz4", "snappy"):
        bomb(kafka_settings, names.packets, b"a", codec, 60_000_000)
    bomb(kafka_settings, names.streams, b"a", "zstd", 110_000_000)
    send(kafka_settings, future, good)
    worker = Running(kafka_settings, family)
    worker.join()
    assert once(results(kafka_settings)).keys() == {("a", good[0][0].epoch, k, "person") for k in range(10)}
    dead = sorted((x.topic.split(".")[-1], x.partition, x.offset, x.code) for x in letters(kafka_settings))
    assert dead == [
        ("metadata", home, 0, "future-epoch"),
        ("packets", home, 0, "failed"),
        *(("packets", home, offset, "unreadable") for offset in (1, 2, 3)),
        ("packets", home, 4, "future-epoch"),
    ]
    lines = [line for line in worker.said if "1.0 hours ahead of the broker's clock" in line]
    assert len(lines) == 1
    assert "restart its producer" in lines[0]


def test_states_and_descriptions_of_others_are_no_reason_to_stop_and_can_be_removed(
    kafka_settings: KafkaSettings, family: Family, good: Published
) -> None:
    """Both topics are compacted: a record stays until its key has a tombstone."""
    names, epoch = kafka_settings.topics, good[0][0].epoch
    other = next(number for number in range(PARTITIONS) if number != partition_of("a", PARTITIONS))
    states = [
        (StreamState("a", epoch + 2 * HOUR_MS, Fraction(0), GRID, 0, 0), None),
        (StreamState("a", epoch, Fraction(0), GRID, 10**6, 0), other),
        (StreamState("b", epoch, Fraction(0), GRID, 0, 10**6), None),
    ]
    keys = (b"a stream", b"\xff\xfe\x1b[2J", b"k" * 5000, b"")
    with RecordSender(kafka_settings) as sender:
        for state, partition in states:
            key, value = encode_state(state)
            sender.send(Record(names.state, key, value, "forged", partition=partition))
        misplaced = encode_stream(StreamDescription("a", (Question("x", "Which of two partitions counts?", "yes-no"),)))
        sender.send(Record(names.streams, *misplaced, "misplaced", partition=other))
        for key in keys:
            for topic in (names.state, names.streams):
                sender.send(Record(topic, key, b'{"v":1,"questions":[]}', "foreign", partition=other))
    send(kafka_settings, good)
    worker = Running(kafka_settings, family)
    worker.join()
    assert once(results(kafka_settings)).keys() == {("a", epoch, k, "person") for k in range(10)}
    events_committed = [line for line in worker.said if "codecflow topics clean" in line]
    assert len(events_committed) == 3 + len(keys) + 1  # a line for each state, one for all descriptions
    assert all(line.isprintable() and len(line) < 700 for line in events_committed)
    at = ["--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", kafka_settings.topic_prefix]
    run = CliRunner()
    said = run.invoke(build(), ["topics", "clean", "--dry-run", *at]).stdout
    # The worker has written a good state of "a" to the correct partition.
    assert said.splitlines()[-1] == f"{3 + 2 * len(keys)} records to remove"
    assert all(line.isprintable() for line in said.splitlines())
    assert len(find_unusable(kafka_settings)) == 3 + 2 * len(keys)
    assert read_description(kafka_settings, "a").questions == ()
    assert run.invoke(build(), ["topics", "clean", *at]).exit_code == 0
    assert find_unusable(kafka_settings) == []
    again = Running(kafka_settings, family)
    assert again.join().windows == 0
    assert not [line for line in again.said if "clean" in line]
    assert "1 records removed" in run.invoke(build(), ["topics", "clean", "--stream", "a", *at]).stdout


def test_an_end_or_a_later_epoch_that_somebody_else_writes(
    kafka_settings: KafkaSettings, family: Family, good: Published
) -> None:
    """A forged end costs the rest of its GOP; records of a later epoch silence a stream until its producer is restarted, and
    this is reported with figures."""
    pictures, documents = good
    epoch = pictures[0].epoch
    key, header = encode_packet(pictures[0])[0], encode_packet(replace(pictures[0], epoch=epoch + 5))[2]
    send(kafka_settings, (pictures[:50], documents[:50]))
    with RecordSender(kafka_settings) as sender:
        sender.send(Record(kafka_settings.topics.packets, key, pictures[0].data, "forged", header))
        forged = encode_metadata(replace(documents[0], epoch=epoch + 5))
        sender.send(Record(kafka_settings.topics.metadata, *forged, "forged"))
    send(kafka_settings, (pictures[50:], documents[50:]))
    restarted = (
        [replace(one, epoch=epoch + 6) for one in pictures],
        [replace(one, epoch=epoch + 6) for one in documents],
    )
    send(kafka_settings, restarted)
    worker = Running(kafka_settings, family)
    worker.join()
    found = once(results(kafka_settings)).keys()
    assert found >= {("a", epoch + 6, k, "person") for k in range(10)}
    assert {e for _, e, _, _ in found} == {epoch, epoch + 6}
