"""A member of the worker group on a real Kafka."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, TopicPartition

from codecflow.errors import KafkaError
from codecflow.kafka.clients import admin_client, transactional_producer
from codecflow.kafka.failures import TopicsError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import partition_of
from codecflow.worker import read_progress
from codecflow.worker.consumer import GroupConsumer
from codecflow.worker.partition import Partition
from codecflow.worker.read_progress import Progress

from .running import until


class Member:
    """`set_held`: its assigned partitions; `read`: topics and partitions from which records came, at `offsets`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.set_held: set[int] = set()
        self.read: set[tuple[int, int]] = set()
        self.offsets: set[int] = set()
        self.said: list[str] = []
        self.consumer = GroupConsumer(settings, self._assigned, self._revoked, self.said.append)

    def _assigned(self, committed: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        self.set_held |= committed.keys()
        return committed

    def _revoked(self, numbers: list[int], lost: bool) -> None:
        self.set_held -= set(numbers)

    def polled(self) -> bool:
        """Whether it has partitions after another poll."""
        self.poll()
        return bool(self.set_held)

    def poll(self) -> None:
        for arrival in self.consumer.poll(0.05):
            if (message := arrival.message) is not None:
                self.read.add((arrival.topic, arrival.partition))
                self.offsets.add(message.offset() or 0)


def test_a_partition_that_was_paused_is_read_again_after_a_rebalance(kafka_settings: KafkaSettings) -> None:
    first = Member(kafka_settings)

    def first_holds(count: int) -> bool:
        first.poll()
        return len(first.set_held) == count

    until(lambda: first_holds(3), what="all partitions")
    for number in range(3):
        first.consumer.pause(number, (True, True))
    second = Member(kafka_settings)

    def shared() -> bool:
        second.poll()
        return first_holds(3 - len(second.set_held)) and bool(second.set_held)

    until(shared, what="shared partitions")
    second.consumer.close()
    until(lambda: first_holds(3), what="all partitions again")
    with RecordSender(kafka_settings) as sender:
        for topic in (kafka_settings.topics.packets, kafka_settings.topics.metadata):
            for number in range(30):
                sender.send(Record(topic, f"stream-{number}".encode(), b"a record", "a record"))
    everywhere = {(topic, number) for topic in (0, 1) for number in range(3)}

    def read_everywhere() -> bool:
        first.poll()
        return first.read == everywhere

    until(read_everywhere, what="records of every partition")
    first.consumer.close()


def test_retention_that_overtakes_a_reading_worker_is_reported(kafka_settings: KafkaSettings) -> None:
    settings, topic = kafka_settings, kafka_settings.topics.packets
    number = partition_of("gate-3", 3)
    member = Member(settings)
    until(member.polled, what="its partitions")

    def send(count: int) -> None:
        with RecordSender(settings) as sender:
            for _ in range(count):
                sender.send(Record(topic, b"gate-3", b"x", "a picture"))

    def read_to(offset: int) -> bool:
        member.poll()
        return offset in member.offsets

    send(5)
    until(lambda: read_to(4), what="the first records")
    member.consumer.pause(number, (True, False))
    send(10)
    place = TopicPartition(topic, number, 12)
    admin = admin_client(settings)
    admin.delete_records([place])[place].result(60)
    member.consumer.pause(number, (False, False))
    until(lambda: read_to(12), what="what is left")
    assert member.consumer.records_expired == 7
    assert [line for line in member.said if "deleted by retention" in line] == [
        f"{topic}[{number}]: offsets 5 to 11 were deleted by retention before they were read: 7 records; "
        f"keep topics longer, or add workers"
    ]
    member.consumer.close()


@pytest.mark.parametrize("failing", ["get_watermark_offsets", "committed"])
def test_requests_that_fail_while_partitions_are_assigned_are_repeated(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """As when a leader moves, or a broker is slow."""
    member = Member(kafka_settings)
    failures = []

    class Flaky:
        """The client, whose first requests of a kind fail."""

        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            assert name != "list_topics", "confluent-kafka aborts at the next callback if called within one"
            return self._flaky if name == failing else getattr(self._client, name)

        def _flaky(self, *arguments: Any, **options: Any) -> Any:
            if len(failures) < 3:
                failures.append(failing)
                raise KafkaException(ClientError(ClientError.NOT_LEADER_FOR_PARTITION))
            return getattr(self._client, failing)(*arguments, **options)

    monkeypatch.setattr(member.consumer, "_consumer", Flaky(member.consumer._consumer))
    until(member.polled, what="its partitions")
    assert member.set_held == {0, 1, 2}
    assert len(failures) == 3
    member.consumer.close()
    hopeless = Member(replace(kafka_settings, give_up_after_s=0.5))

    def always(*_: object, **__: object) -> None:
        raise KafkaException(ClientError(ClientError._TIMED_OUT))

    client = SimpleNamespace(**{failing: always})
    real = hopeless.consumer._consumer

    class Hopeless:
        def __getattr__(self, name: str) -> Any:
            assert name != "list_topics"
            return getattr(client if name == failing else real, name)

    monkeypatch.setattr(hopeless.consumer, "_consumer", Hopeless())
    with pytest.raises(KafkaError, match="cannot be read"):
        until(hopeless.polled, what="an error")
    real.close()


def test_errors_of_the_client_are_one_line(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    member = Member(kafka_settings)
    until(member.polled, what="its partitions")
    real = member.consumer._consumer

    def broken(*_: object, **__: object) -> None:
        raise KafkaException(ClientError(ClientError._STATE))

    for name, call in (
        ("consume", lambda: member.consumer.poll(0.1)),
        ("pause", lambda: member.consumer.pause(0, (True, True))),
    ):
        with monkeypatch.context() as patched:
            fake = SimpleNamespace(**{n: getattr(real, n) for n in ("consume", "pause", "resume", "list_topics")})
            setattr(fake, name, broken)
            patched.setattr(member.consumer, "_consumer", fake)
            with pytest.raises(KafkaError) as raised:
                call()
            assert "\n" not in str(raised.value)
    member.consumer.close()


def test_the_lag_includes_what_arrives_while_a_partition_is_paused(kafka_settings: KafkaSettings) -> None:
    """The client itself only learns of new records by fetching them."""
    number = partition_of("a", 3)
    paused = SimpleNamespace(positions=(0, 0), read_until=lambda *_: None, hold=lambda *_: None)
    progress = Progress(kafka_settings, every_s=0.1)

    def lag_is(count: int) -> bool:
        progress.update({number: cast(Partition, paused)})
        return progress.lag == count

    with RecordSender(kafka_settings) as sender:
        for count in (1, 2, 3):
            sender.send(Record(kafka_settings.topics.packets, b"a", b"x", "a record"))
            sender.flush()
            until(lambda: lag_is(count), what="the lag")  # noqa: B023
    paused.positions = (3, 0)
    assert lag_is(0)


def test_an_open_transaction_of_another_program_and_a_topic_that_is_deleted(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records after the transaction's first one will come: what waits for them must not be given up."""
    monkeypatch.setattr(read_progress, "_HELD_S", 0.3)
    monkeypatch.setattr(read_progress, "_MISSING_S", 0.3)
    packets, number = kafka_settings.topics.packets, partition_of("a", 3)
    held = {0: 0.0, 1: 0.0}
    partition = SimpleNamespace(positions=(0, 0), read_until=lambda *_: None, hold=held.__setitem__)
    progress = Progress(kafka_settings, every_s=0.1)

    def update() -> bool:
        progress.update({number: cast(Partition, partition)})
        return True

    other = transactional_producer(kafka_settings, f"{kafka_settings.topic_prefix}-another-program")
    other.init_transactions(120)
    other.begin_transaction()
    other.produce(packets, key=b"a", value=b"x")
    other.flush(120)
    until(lambda: update() and held[0] > 0, what="the transaction is noticed")
    assert progress.lag == 1
    assert held[1] == 0
    other.abort_transaction(120)
    until(lambda: update() and held[0] == 0, what="its end is noticed")
    admin = admin_client(kafka_settings)
    admin.delete_topics([packets])[packets].result(120)
    with pytest.raises(TopicsError, match=rf"topic {packets} is missing: run: codecflow topics create"):
        until(lambda: not update(), what="the topic is missed")


def test_a_member_that_the_group_does_not_take_says_why(kafka_settings: KafkaSettings) -> None:
    worker = Member(kafka_settings)
    until(worker.polled, what="its partitions")
    other = Member(replace(kafka_settings, properties={"partition.assignment.strategy": "roundrobin"}))
    with pytest.raises(
        KafkaError, match=f"group {kafka_settings.worker_group}: .*Inconsistent group protocol: its members"
    ):
        until(lambda: other.polled() and worker.polled() and False, what="the refusal")
    for member in (worker, other):
        member.consumer.close()


def test_partitions_that_arrive_while_it_leaves_are_not_taken(kafka_settings: KafkaSettings) -> None:
    worker = Member(kafka_settings)
    group, admin = kafka_settings.worker_group, admin_client(kafka_settings)

    def assigned() -> bool:
        found = admin.describe_consumer_groups([group])[group].result(120)
        return any(member.assignment.topic_partitions for member in found.members)

    until(assigned, what="the group's assignment, which the member has not polled for")
    worker.consumer.close()
    assert not worker.set_held
    other = Member(kafka_settings)
    until(lambda: other.polled() and len(other.set_held) == 3, what="all partitions in another member")
    other.consumer.close()
