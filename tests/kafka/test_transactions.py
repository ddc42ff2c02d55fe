"""All of a batch or nothing, and only by the worker that owns the partitions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from confluent_kafka import Consumer, TopicPartition

from codecflow.kafka.clients import consumer, transactional_producer
from codecflow.kafka.failures import FencedError, RecordTooLargeError
from codecflow.kafka.records import Record
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail, newest_by_key
from codecflow.kafka.transactions import TransactionalEmitter


@contextmanager
def member(settings: KafkaSettings, partitions: int) -> Iterator[Consumer]:
    """A consumer of packets that owns `partitions` of them."""
    client = consumer(settings, f"{settings.topic_prefix}.workers")
    client.subscribe([settings.topics.packets])
    try:
        until_it_owns(client, partitions)
        yield client
    finally:
        client.close()


def until_it_owns(client: Consumer, partitions: int, *others: Consumer) -> None:
    deadline = time.monotonic() + 30
    while len(client.assignment()) != partitions:
        assert time.monotonic() < deadline
        for each in (client, *others):
            each.poll(0.1)


def result(settings: KafkaSettings, value: bytes) -> Record:
    return Record(settings.topics.results, b"gate-3", value, "stream gate-3, window 7")


def state(settings: KafkaSettings, value: bytes) -> Record:
    return Record(settings.topics.state, b"gate-3", value, "state of stream gate-3")


def read(settings: KafkaSettings, topic: str) -> list[bytes | None]:
    with TopicTail(settings, topic) as tail:
        return [record.value() for record in tail.catch_up(30)]


def committed(client: Consumer, settings: KafkaSettings) -> int:
    return client.committed([TopicPartition(settings.topics.packets, 0)], 10)[0].offset


def offset(settings: KafkaSettings, value: int) -> list[TopicPartition]:
    return [TopicPartition(settings.topics.packets, 0, value)]


def test_records_and_offsets_become_visible_together(kafka_settings: KafkaSettings) -> None:
    emitter = TransactionalEmitter(kafka_settings, kafka_settings.topic_prefix)
    emitter.open()
    with member(kafka_settings, 3) as client:
        for number in range(3):
            records = [result(kafka_settings, b"%d" % number), state(kafka_settings, b"after %d" % number)]
            emitter.emit(records, offset(kafka_settings, number + 1), client.consumer_group_metadata())
        assert committed(client, kafka_settings) == 3
    assert read(kafka_settings, kafka_settings.topics.results) == [b"0", b"1", b"2"]
    with TopicTail(kafka_settings, kafka_settings.topics.state) as tail:
        assert newest_by_key(tail.catch_up()) == {b"gate-3": b"after 2"}


def test_a_refused_record_takes_its_whole_batch_with_it_and_the_emitter_goes_on(kafka_settings: KafkaSettings) -> None:
    huge = replace(result(kafka_settings, b"\1" * (2 << 20)), headers=[("x", bytes(2 << 20))])
    settings = KafkaSettings(
        kafka_settings.bootstrap_servers, kafka_settings.topic_prefix, {"compression.type": "none"}
    )
    emitter = TransactionalEmitter(settings, settings.topic_prefix)
    emitter.open()
    with member(settings, 3) as client:
        with pytest.raises(RecordTooLargeError, match="window 7"):
            emitter.emit([state(settings, b"a"), huge], offset(settings, 5), client.consumer_group_metadata())
        assert committed(client, settings) < 0
        emitter.emit([state(settings, b"b")], offset(settings, 6), client.consumer_group_metadata())
        assert committed(client, settings) == 6
    assert read(settings, settings.topics.state) == [b"b"]
    assert read(settings, settings.topics.results) == []


def test_a_second_emitter_of_the_same_id_fences_the_first(kafka_settings: KafkaSettings) -> None:
    first, second = (TransactionalEmitter(kafka_settings, kafka_settings.topic_prefix) for _ in range(2))
    first.open()
    second.open()
    with member(kafka_settings, 3) as client:
        with pytest.raises(FencedError) as fenced:
            first.emit([result(kafka_settings, b"old")], offset(kafka_settings, 1), client.consumer_group_metadata())
        assert fenced.value.fatal
        second.emit([result(kafka_settings, b"new")], offset(kafka_settings, 2), client.consumer_group_metadata())
        assert committed(client, kafka_settings) == 2
    assert read(kafka_settings, kafka_settings.topics.results) == [b"new"]


def test_a_worker_whose_partitions_moved_on_emits_nothing(kafka_settings: KafkaSettings) -> None:
    emitter = TransactionalEmitter(kafka_settings, f"{kafka_settings.topic_prefix}.a")
    emitter.open()
    with member(kafka_settings, 3) as client:
        before = client.consumer_group_metadata()
        newcomer = consumer(kafka_settings, f"{kafka_settings.topic_prefix}.workers")
        newcomer.subscribe([kafka_settings.topics.packets])
        try:
            deadline = time.monotonic() + 30
            while not newcomer.assignment():
                assert time.monotonic() < deadline
                newcomer.poll(0.1)
                client.poll(0.1)
            with pytest.raises(FencedError) as fenced:
                emitter.emit([result(kafka_settings, b"late")], offset(kafka_settings, 9), before)
            assert not fenced.value.fatal
            emitter.emit([result(kafka_settings, b"now")], offset(kafka_settings, 1), client.consumer_group_metadata())
        finally:
            newcomer.close()
    assert read(kafka_settings, kafka_settings.topics.results) == [b"now"]


def test_a_reader_waits_for_a_transaction_that_a_dead_worker_left_open(kafka_settings: KafkaSettings) -> None:
    dead = transactional_producer(
        KafkaSettings(
            kafka_settings.bootstrap_servers, kafka_settings.topic_prefix, {"transaction.timeout.ms": "2000"}
        ),
        kafka_settings.topic_prefix,
    )
    dead.init_transactions(10)
    dead.begin_transaction()
    dead.produce(kafka_settings.topics.state, b"never", b"gate-3")
    assert dead.flush(10) == 0
    living = TransactionalEmitter(kafka_settings, f"{kafka_settings.topic_prefix}.b")
    living.open()
    with member(kafka_settings, 3) as client:
        living.emit([state(kafka_settings, b"done")], offset(kafka_settings, 1), client.consumer_group_metadata())
    assert read(kafka_settings, kafka_settings.topics.state) == [b"done"]


def test_a_topic_is_read_to_its_end_and_followed(kafka_settings: KafkaSettings) -> None:
    emitter = TransactionalEmitter(kafka_settings, kafka_settings.topic_prefix)
    emitter.open()
    with member(kafka_settings, 3) as client, TopicTail(kafka_settings, kafka_settings.topics.results) as tail:
        assert tail.catch_up() == []
        emitter.emit([result(kafka_settings, b"1")], offset(kafka_settings, 1), client.consumer_group_metadata())
        assert [record.value() for record in tail.catch_up()] == [b"1"]
        assert tail.catch_up() == []
        with TopicTail(kafka_settings, kafka_settings.topics.results, from_end=True) as late:
            late.poll(1.0)
            emitter.emit([result(kafka_settings, b"2")], offset(kafka_settings, 2), client.consumer_group_metadata())
            for reader in (tail, late):
                found: list[bytes | None] = []
                deadline = time.monotonic() + 20
                while not found:
                    assert time.monotonic() < deadline
                    found += [record.value() for record in reader.poll(0.5)]
                assert found == [b"2"]
