"""A stream's partition can be computed by anybody, and the clients put it there."""

from __future__ import annotations

import confluent_kafka
from hypothesis import given
from hypothesis import strategies as st

from codecflow.kafka.partitions import murmur2, partition_of
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail


def test_murmur2_is_that_of_the_java_clients() -> None:
    # Values of Kafka's own UtilsTest.testMurmur2, there as signed integers.
    known = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    assert {data: murmur2(data) for data in known} == {data: value % 2**32 for data, value in known.items()}


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1), st.integers(1, 1000))
def test_it_agrees_with_librdkafka(stream: str, partitions: int) -> None:
    assert partition_of(stream, partitions) == confluent_kafka.murmur2(stream.encode(), partitions)


def test_records_of_a_stream_lie_in_its_partition_of_every_topic(kafka_settings: KafkaSettings) -> None:
    names = kafka_settings.topics
    streams = [f"camera-{number}" for number in range(40)]
    with RecordSender(kafka_settings) as sender:
        for topic in (names.packets, names.metadata, names.state):
            for stream in streams:
                sender.send(Record(topic, stream.encode(), b"x", stream))
    for topic in (names.packets, names.metadata, names.state):
        with TopicTail(kafka_settings, topic) as tail:
            found = {(record.key() or b"").decode(): record.partition() for record in tail.catch_up()}
        assert found == {stream: partition_of(stream, 3) for stream in streams}
