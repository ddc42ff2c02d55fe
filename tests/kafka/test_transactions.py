"""A batch is committed completely or not at all, and only by the worker that owns the partitions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as ClientError

from codecflow.kafka import retry_deadline, transactions
from codecflow.kafka.clients import consumer, transactional_producer
from codecflow.kafka.failures import BrokersGoneError, FencedError, RecordTooLargeError
from codecflow.kafka.records import Record
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail, newest_by_key
from codecflow.kafka.transactions import TransactionalEmitter
from codecflow.localkafka.files import free_port


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
    emitter = emitter_of(kafka_settings)
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
    emitter = emitter_of(settings)
    with member(settings, 3) as client:
        with pytest.raises(RecordTooLargeError, match="window 7"):
            emitter.emit([state(settings, b"a"), huge], offset(settings, 5), client.consumer_group_metadata())
        assert committed(client, settings) < 0
        emitter.emit([state(settings, b"b")], offset(settings, 6), client.consumer_group_metadata())
        assert committed(client, settings) == 6
    assert read(settings, settings.topics.state) == [b"b"]
    assert read(settings, settings.topics.results) == []


class Client:
    """The producer of an emitter, with one method replaced. `calls`: how often that was called."""

    def __init__(
        self, emitter: TransactionalEmitter, method: str, behaviour: Callable[[Callable[..., Any]], Any]
    ) -> None:
        self._inner, self.calls = emitter._producer, 0

        def call(*arguments: Any) -> Any:
            self.calls += 1
            return behaviour(lambda: getattr(self._inner, method)(*arguments))

        setattr(self, method, call)
        emitter._producer = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def emitter_of(settings: KafkaSettings, suffix: str = "") -> TransactionalEmitter:
    emitter = TransactionalEmitter(settings, f"{settings.topic_prefix}{suffix}", f"{settings.topic_prefix}.workers")
    emitter.open()
    return emitter


def fence(settings: KafkaSettings) -> None:
    """What the coordinator does to a producer whose transaction lasts too long."""
    transactional_producer(settings, settings.topic_prefix).init_transactions(120)


def test_a_producer_that_is_fenced_is_replaced_and_its_batch_sent_again(kafka_settings: KafkaSettings) -> None:
    emitter = emitter_of(kafka_settings)
    with member(kafka_settings, 3) as client:
        emit = partial(emitter.emit, group=client.consumer_group_metadata())
        fence(kafka_settings)
        emit([result(kafka_settings, b"before its transaction")], offset(kafka_settings, 1))

        def fenced(flush: Callable[[], int]) -> int:
            left = flush()
            fence(kafka_settings)
            return left

        within = Client(emitter, "flush", fenced)
        emit([result(kafka_settings, b"within it")], offset(kafka_settings, 2))
        assert within.calls == 1
        assert committed(client, kafka_settings) == 2
    fence(kafka_settings)
    emitter.close()
    assert read(kafka_settings, kafka_settings.topics.results) == [b"before its transaction", b"within it"]


def test_calls_that_never_come_back_are_answered_with_a_new_producer(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "_HANGS_S", 2.0)
    monkeypatch.setattr(transactions, "_CALL_S", 1.0)
    late = KafkaException(ClientError(ClientError._TIMED_OUT, "late", False, True))
    emitter, never = emitter_of(kafka_settings), Event()

    def hang(_: Callable[[], None]) -> None:
        never.wait(60)

    def commits_unheard(commit: Callable[[], None]) -> None:
        with suppress(KafkaException):
            commit()
        raise late

    def is_late(_: Callable[[], None]) -> None:
        raise late

    cases: list[tuple[str, Callable[[Callable[[], None]], None]]] = [
        ("send_offsets_to_transaction", hang),
        ("commit_transaction", is_late),
        ("commit_transaction", commits_unheard),
    ]
    with member(kafka_settings, 3) as client:
        for number, (method, behaviour) in enumerate(cases):
            stuck = Client(emitter, method, behaviour)
            records = [result(kafka_settings, b"%d" % number)]
            emitter.emit(records, offset(kafka_settings, number + 1), client.consumer_group_metadata())
            assert stuck.calls >= 1
        stuck = Client(emitter, "abort_transaction", hang)
        huge = result(kafka_settings, os.urandom(2 << 20))
        with pytest.raises(RecordTooLargeError):
            emitter.emit([huge], offset(kafka_settings, 8), client.consumer_group_metadata())
        assert stuck.calls == 1
        assert committed(client, kafka_settings) == len(cases)
    never.set()
    assert read(kafka_settings, kafka_settings.topics.results) == [b"%d" % number for number in range(len(cases))]


def test_the_cause_is_reported_when_brokers_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_deadline, "STOP_WITHIN_S", 1.0)
    settings = KafkaSettings(f"127.0.0.1:{free_port()}", give_up_after_s=1.5)
    with pytest.raises(BrokersGoneError, match=r"transactions cannot be opened for \d+ s \(.*refused.*\); giving up"):
        emitter_of(settings)
    stopping = TransactionalEmitter(replace(settings, give_up_after_s=120), "id", "group", lambda: True)
    began = time.monotonic()
    with pytest.raises(BrokersGoneError, match=r"refused.*stopping"):
        stopping.open()
    assert time.monotonic() - began < 40
    stopping.close()


def test_a_worker_whose_partitions_moved_on_emits_nothing(kafka_settings: KafkaSettings) -> None:
    emitter = emitter_of(kafka_settings, ".a")
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
            with pytest.raises(FencedError):
                emitter.emit([result(kafka_settings, b"late")], offset(kafka_settings, 9), before)
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
    dead.init_transactions(120)
    dead.begin_transaction()
    dead.produce(kafka_settings.topics.state, b"never", b"gate-3")
    assert dead.flush(120) == 0
    living = emitter_of(kafka_settings, ".b")
    with member(kafka_settings, 3) as client:
        living.emit([state(kafka_settings, b"done")], offset(kafka_settings, 1), client.consumer_group_metadata())
    assert read(kafka_settings, kafka_settings.topics.state) == [b"done"]


def test_a_topic_is_read_to_its_end_and_followed(kafka_settings: KafkaSettings) -> None:
    emitter = emitter_of(kafka_settings)
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
                deadline = time.monotonic() + 60
                while not found:
                    assert time.monotonic() < deadline
                    found += [record.value() for record in reader.poll(0.5)]
                assert found == [b"2"]
