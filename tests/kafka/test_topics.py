"""Topics are created correctly, and incorrect ones are reported in one line."""

from __future__ import annotations

from concurrent.futures import Future
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from codecflow.errors import CodecFlowError
from codecflow.kafka import topics
from codecflow.kafka.clients import admin_client
from codecflow.kafka.failures import TopicsError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import CONFIGS, check_retention, check_topics, create_topics, partition_of
from codecflow.localkafka.daemon import LocalKafka


def make(settings: KafkaSettings, name: str, partitions: int, config: dict[str, str]) -> None:
    """One topic, as created by hand."""
    topic = NewTopic(f"{settings.topic_prefix}.{name}", partitions, 1, config=config)
    client = admin_client(settings)
    client.create_topics([topic])[topic.topic].result(120)


def test_created_topics_pass_the_check_and_are_left_alone_the_next_time(kafka: LocalKafka, topic_prefix: str) -> None:
    settings = KafkaSettings(kafka.bootstrap_servers, topic_prefix, reach_within_s=60.0)
    assert len(create_topics(settings, partitions=2)) == len(CONFIGS)
    assert check_topics(settings) == 2
    assert create_topics(settings, partitions=5) == []
    assert check_topics(settings) == 2


def test_topics_that_a_broker_does_not_know_yet_are_waited_for(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster, some brokers learn of new topics later than the one that made them."""
    unknown = iter(list(CONFIGS)[:3])
    found = topics._found

    def known(client: object, settings: KafkaSettings) -> object:
        hidden = next(unknown, "")
        return {topic: about for topic, about in found(client, settings).items() if not topic.endswith(f".{hidden}")}  # type: ignore[arg-type]

    monkeypatch.setattr(topics, "_found", known)
    assert check_topics(kafka_settings) == 3
    assert next(unknown, None) is None


def test_missing_topics_are_named(kafka: LocalKafka, topic_prefix: str) -> None:
    with pytest.raises(TopicsError, match=rf"missing topics {topic_prefix}\.packets, .* codecflow topics create"):
        check_topics(KafkaSettings(kafka.bootstrap_servers, topic_prefix, reach_within_s=60.0))


def test_unequal_partition_counts_and_wrong_cleanup_are_reported_in_one_line(
    kafka: LocalKafka, topic_prefix: str
) -> None:
    settings = KafkaSettings(kafka.bootstrap_servers, topic_prefix, reach_within_s=60.0)
    make(settings, "metadata", 3, dict(CONFIGS["metadata"]))
    make(settings, "results", 1, {**CONFIGS["results"], "max.message.bytes": "2000"})
    make(settings, "state", 2, {})
    create_topics(settings, partitions=2)  # those three stay unchanged, and are known to the broker when it returns
    with pytest.raises(CodecFlowError) as refused:
        check_topics(settings)
    said = str(refused.value)
    assert f"{topic_prefix}.packets has 2, {topic_prefix}.metadata has 3" in said
    assert f"{topic_prefix}.state: cleanup.policy must be compact, not delete" in said
    assert f"{topic_prefix}.results: max.message.bytes must be at least 1000000, not 2000" in said
    assert "\n" not in said


def test_more_copies_than_brokers_is_reported(kafka: LocalKafka, topic_prefix: str) -> None:
    with pytest.raises(TopicsError, match=rf"{topic_prefix}\.packets: cannot be created: .*[Rr]eplication"):
        create_topics(KafkaSettings(kafka.bootstrap_servers, topic_prefix, reach_within_s=60.0), replication=3)


def test_retention_is_compared_with_the_window(kafka_settings: KafkaSettings) -> None:
    settings, topics = kafka_settings, kafka_settings.topics
    client = admin_client(settings)
    check_retention(settings, 40)
    short = ConfigEntry("retention.ms", "30000", incremental_operation=AlterConfigOpType.SET)
    for done in client.incremental_alter_configs(
        [ConfigResource("topic", topics.metadata, incremental_configs=[short])]
    ).values():
        done.result(120)
    with RecordSender(settings) as sender:
        for number in range(3):
            sender.send(Record(topics.packets, b"gate-3", b"x", f"picture {number}"))
    partition = partition_of("gate-3", 3)
    client.delete_records([TopicPartition(topics.packets, partition, 2)])[
        TopicPartition(topics.packets, partition)
    ].result(120)
    with pytest.raises(TopicsError) as refused:
        check_retention(settings, 40)
    assert f"{topics.metadata}: retention.ms is 30000, two windows of 40 s need 80000" in str(refused.value)
    assert f"{topics.packets}[{partition}]: older records than of the last 80 s are gone" in str(refused.value)


def failing_once(monkeypatch: pytest.MonkeyPatch, request: str, error: int) -> list[str]:
    """From now on every second of these admin requests fails; returns the topics whose leaders were requested."""
    own, refreshed, asked = getattr(AdminClient, request), list[str](), count()

    def fail(client: AdminClient, wanted: Any, *arguments: Any, **how: Any) -> Any:
        answers = own(client, wanted, *arguments, **how)
        if next(asked) % 2 == 0:
            for place in answers:
                answers[place] = Future()
                answers[place].set_exception(KafkaException(ClientError(error)))
        return answers

    def list_topics(client: AdminClient, *topic: str, **how: Any) -> Any:
        refreshed.extend(topic)
        return listed(client, *topic, **how)

    listed = AdminClient.list_topics
    monkeypatch.setattr(AdminClient, request, fail)
    monkeypatch.setattr(AdminClient, "list_topics", list_topics)
    return refreshed


def test_a_connection_that_is_cut_while_topics_are_checked(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_once(monkeypatch, "describe_configs", ClientError._TRANSPORT)
    assert check_topics(kafka_settings) == 3


def test_offsets_are_requested_of_the_broker_that_leads_now(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After this error librdkafka would ask the former leader for good."""
    refreshed = failing_once(monkeypatch, "list_offsets", ClientError.FENCED_LEADER_EPOCH)
    with RecordSender(kafka_settings) as sender:
        sender.send(Record(kafka_settings.topics.streams, b"a", b"x", "a record"))
    with TopicTail(kafka_settings, kafka_settings.topics.streams) as tail:
        assert [record.value() for record in tail.catch_up()] == [b"x"]
    assert refreshed.count(kafka_settings.topics.streams) >= 3  # its partitions, and after each failure


@pytest.mark.parametrize(
    "code", [ClientError.FENCED_LEADER_EPOCH, ClientError.UNKNOWN_LEADER_EPOCH, ClientError.NOT_LEADER_FOR_PARTITION]
)
def test_a_reader_waits_while_a_partition_moves_to_another_broker(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """librdkafka reports some of these errors to readers, and then goes on by itself."""
    moved = SimpleNamespace(error=lambda: ClientError(code), partition=lambda: 0, offset=lambda: None)
    with RecordSender(kafka_settings) as sender:
        sender.send(Record(kafka_settings.topics.streams, b"a", b"x", "a record"))
    with TopicTail(kafka_settings, kafka_settings.topics.streams) as tail:
        client = tail._consumer
        first = iter([moved])
        flaky = SimpleNamespace(poll=lambda wait_s: next(first, None) or client.poll(wait_s), consume=client.consume)
        monkeypatch.setattr(tail, "_consumer", flaky)
        assert [record.value() for record in tail.catch_up()] == [b"x"]
        monkeypatch.setattr(tail, "_consumer", client)
