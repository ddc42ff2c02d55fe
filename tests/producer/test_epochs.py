"""Epochs through a real Kafka: they increase whatever the clocks say, and a wrong clock is announced."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import pytest

from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import partition_of
from codecflow.messages import MAX_CLOCK_MS, EndOfEpoch, StreamState, WindowGrid, encode_metadata, encode_state
from codecflow.producer import newest_epoch
from codecflow.producer.newest_epoch import next_epoch
from codecflow.producer.options import ProduceOptions
from codecflow.producer.run import produce
from tests.codec.clips import encode
from tests.conftest import PARTITIONS

from .topics import read

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def set_clock(monkeypatch: pytest.MonkeyPatch, off_s: float) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + off_s)


def publish_epoch(settings: KafkaSettings, stream: str, epoch: int) -> None:
    key, value = encode_metadata(EndOfEpoch(stream, epoch, 0))
    with RecordSender(settings) as sender:
        sender.send(Record(settings.topics.metadata, key, value, "end"))


def test_a_clock_set_back_by_an_hour(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, lines = encode(tmp_path / "clip"), list[str]()
    first = produce(kafka_settings, str(clip), "gate", ProduceOptions(fast=True))
    other = produce(kafka_settings, str(clip), "yard", ProduceOptions(fast=True))
    set_clock(monkeypatch, -3600)
    second = produce(kafka_settings, str(clip), "gate", ProduceOptions(fast=True), notice=lines.append)
    assert second.epoch == first.epoch + 1
    assert second.epoch != other.epoch
    assert [line for line in lines if "ahead of this machine's clock" in line] == lines
    assert len(lines) == 1
    assert "s ahead of this machine's clock" in lines[0]
    monkeypatch.undo()
    third = produce(kafka_settings, str(clip), "gate", ProduceOptions(fast=True), notice=lines.append)
    assert third.epoch > second.epoch + 1
    assert len(lines) == 1, "nothing to say when the clock is right"
    epochs = [picture.epoch for picture in read(kafka_settings).packets if picture.stream == "gate"]
    assert epochs == sorted(epochs)


def test_an_epoch_is_found_behind_many_records_of_others(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = partition_of("gate", PARTITIONS)
    neighbour = next(name for name in (f"n{i}" for i in range(99)) if partition_of(name, PARTITIONS) == home)
    ahead = int(time.time() * 1000) + HOUR_MS
    publish_epoch(kafka_settings, "gate", ahead)
    with RecordSender(kafka_settings) as sender:
        for index in range(2500):
            key, value = encode_metadata(EndOfEpoch(neighbour, index, 0))
            sender.send(Record(kafka_settings.topics.metadata, key, value, "end"))
    assert next_epoch(kafka_settings, "gate", PARTITIONS, lambda line: None) == ahead + 1


def test_what_a_worker_answered_counts_when_the_records_are_gone(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = list[str]()
    answered = int(time.time() * 1000) - 5
    key, value = encode_state(StreamState("gate", answered, Fraction(0), WindowGrid(Fraction(2), 80, 16), 0, 0))
    with RecordSender(kafka_settings) as sender:
        sender.send(Record(kafka_settings.topics.state, key, value, "state"))
    set_clock(monkeypatch, -40 * 365 * 86_400)  # a board without a battery starts in the past
    assert next_epoch(kafka_settings, "gate", PARTITIONS, lines.append) == answered + 1
    assert len(lines) == 1
    assert "days ahead" in lines[0]


def test_an_epoch_of_the_far_future_is_left_to_the_workers_who_leave_it_out(kafka_settings: KafkaSettings) -> None:
    lines = list[str]()
    now = int(time.time() * 1000)
    publish_epoch(kafka_settings, "gate", now + 2 * DAY_MS)
    # A state of another program: it must not keep the producer from starting, nor make it publish what workers reject.
    key, value = encode_state(StreamState("gate", MAX_CLOCK_MS, Fraction(0), WindowGrid(Fraction(2), 80, 16), 0, 0))
    with RecordSender(kafka_settings) as sender:
        sender.send(Record(kafka_settings.topics.state, key, value, "state"))
    epoch = next_epoch(kafka_settings, "gate", PARTITIONS, lines.append)
    assert now <= epoch < now + HOUR_MS
    assert len(lines) == 1
    assert "2.0 days ahead" in lines[0]
    assert "leave out" in lines[0]


def test_epochs_known_here_count_without_topics(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest_epoch, "WITHIN_S", 0.0)
    now = int(time.time() * 1000)
    assert next_epoch(kafka_settings, "gate", PARTITIONS, lambda line: None, now + 60_000) == now + 60_001
