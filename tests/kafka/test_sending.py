"""Records outside transactions: flow control, limits, brokers that are down."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaError as ClientError
from confluent_kafka import Producer

from codecflow.errors import ConfigError
from codecflow.kafka.clients import require_broker
from codecflow.kafka.failures import BrokersGoneError, BrokerUnreachableError, DeliveryError, RecordTooLargeError
from codecflow.kafka.records import Record, Report, headers_of, produce
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import LARGEST_PICTURE_BYTES
from codecflow.localkafka.files import free_port

from .raw_client import publish_with_header_name


def picture(settings: KafkaSettings, number: int, size: int = 10) -> Record:
    value = number.to_bytes(4, "big") + bytes(size)
    return Record(
        settings.topics.packets, b"gate-3", value, f"stream gate-3, picture {number}", [("seq", b"%d" % number)]
    )


def test_records_arrive_in_order_once_though_the_queue_holds_but_a_few(kafka_settings: KafkaSettings) -> None:
    with RecordSender(kafka_settings, **{"queue.buffering.max.messages": 5}) as sender:
        for number in range(120):
            sender.send(picture(kafka_settings, number))
    assert sender.unacknowledged == 0
    with TopicTail(kafka_settings, kafka_settings.topics.packets) as tail:
        records = tail.catch_up()
    assert [int.from_bytes((record.value() or b"")[:4], "big") for record in records] == list(range(120))
    assert {record.partition() for record in records} == {records[0].partition()}
    assert records[7].headers() == [("seq", b"7")]


def test_a_picture_as_large_as_the_topic_allows_passes_among_small_ones(kafka_settings: KafkaSettings) -> None:
    noise = bytes(range(256)) * 4
    with RecordSender(kafka_settings, **{"compression.type": "none"}) as sender:
        for number in range(50):
            sender.send(Record(kafka_settings.topics.packets, b"gate-3", noise * 100, f"picture {number}"))
        sender.send(Record(kafka_settings.topics.packets, b"gate-3", bytes(LARGEST_PICTURE_BYTES - 1000), "picture 50"))
    with TopicTail(kafka_settings, kafka_settings.topics.packets) as tail:
        assert len(tail.catch_up()) == 51


@pytest.mark.parametrize("size", [LARGEST_PICTURE_BYTES + 1, 100_000_001], ids=["for the topic", "for the client"])
def test_a_picture_larger_than_allowed_is_one_clear_error(kafka_settings: KafkaSettings, size: int) -> None:
    with (
        pytest.raises(RecordTooLargeError, match=r"stream gate-3, picture 41: \d+ bytes .* max\.message\.bytes"),
        RecordSender(kafka_settings, **{"compression.type": "none"}) as sender,
    ):
        sender.send(picture(kafka_settings, 41, size))


def test_a_missing_topic_is_reported_by_name(kafka_settings: KafkaSettings) -> None:
    quick = {"topic.metadata.propagation.max.ms": 500}
    with pytest.raises(DeliveryError, match=r"elsewhere\.packets"), RecordSender(kafka_settings, **quick) as sender:
        sender.send(Record("elsewhere.packets", b"gate-3", b"x", "stream gate-3, picture 0"))


def test_an_unreachable_broker_is_found_in_time() -> None:
    settings = KafkaSettings(f"127.0.0.1:{free_port()}", reach_within_s=1.5)
    began = time.monotonic()
    with pytest.raises(BrokerUnreachableError, match=r"no answer within 1\.5 s .*refused"):
        require_broker(settings)
    assert time.monotonic() - began < 20


def test_a_sender_gives_up_when_brokers_stay_away() -> None:
    settings = KafkaSettings(f"127.0.0.1:{free_port()}", give_up_after_s=2)
    began = time.monotonic()
    with pytest.raises(BrokersGoneError, match="giving up"), RecordSender(settings) as sender:
        sender.send(picture(settings, 0))
    assert time.monotonic() - began < 20


def test_a_client_whose_records_time_out_while_brokers_answer_is_replaced(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen with a broker that was restarted under load: for two minutes the client accepted records and sent none."""
    sender = RecordSender(kafka_settings)
    first, silent = sender._producer, list[Report]()

    def hanging(record: Record, client: Producer, report: Report) -> None:
        if client is first:
            silent.append(report)
        else:
            produce(record, client, report)

    monkeypatch.setattr("codecflow.kafka.sending.produce", hanging)
    for number in range(3):
        sender.send(picture(kafka_settings, number))
    for report in silent:
        report(ClientError(ClientError._MSG_TIMED_OUT), None)  # type: ignore[arg-type]  # as librdkafka does
    for number in range(3, 6):
        sender.send(picture(kafka_settings, number))
    sender.flush(60)
    with TopicTail(kafka_settings, kafka_settings.topics.packets) as tail:
        records = tail.catch_up()
    assert [int.from_bytes((record.value() or b"")[:4], "big") for record in records] == list(range(6))


def test_an_unknown_property_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"no\.such\.thing"):
        RecordSender(KafkaSettings(properties={"no.such.thing": "1"}))


def test_header_names_that_are_not_utf_8(kafka_settings: KafkaSettings) -> None:
    """Often enough that CPython has specialised the call, which must not let confluent-kafka's error through."""
    topic = kafka_settings.topics.packets
    for name in (b"\xff\xfe",) * 40 + (b"fine",):
        publish_with_header_name(kafka_settings, topic, name)
    with TopicTail(kafka_settings, topic) as tail:
        found = [headers_of(record) for record in tail.catch_up()]
    assert found == [None] * 40 + [[("fine", b"1")]]
