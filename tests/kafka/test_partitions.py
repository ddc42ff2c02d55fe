"""A stream's partition can be computed by anybody, and the clients put it there."""

from __future__ import annotations

from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import partition_of


def test_it_is_the_rule_of_the_java_clients() -> None:
    # Values of Kafka's own UtilsTest.testMurmur2, there as signed integers.
    known = {
        "21": -973932308,
        "foobar": -790332482,
        "a-little-bit-long-string": -985981536,
        "a-little-bit-longer-string": -1486304829,
        "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        "abc": 479470107,
    }
    for stream, hashed in known.items():
        for partitions in (1, 2, 3, 8, 1000):
            assert partition_of(stream, partitions) == (hashed & 0x7FFFFFFF) % partitions


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
