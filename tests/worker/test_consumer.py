"""A member of the worker group on a real Kafka."""

from __future__ import annotations

from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.worker.consumer import GroupConsumer

from .running import until


class Member:
    """`holds`: partitions that it was given; `read`: of each topic and partition that records came from."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.holds: set[int] = set()
        self.read: set[tuple[int, int]] = set()
        self.consumer = GroupConsumer(settings, self._assigned, self._revoked, print)

    def _assigned(self, committed: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        self.holds |= committed.keys()
        return committed

    def _revoked(self, numbers: list[int], lost: bool) -> None:
        self.holds -= set(numbers)

    def poll(self) -> None:
        self.read |= {(a.topic, a.partition) for a in self.consumer.poll(0.05) if a.message is not None}


def test_a_partition_that_was_paused_is_read_again_after_a_rebalance(kafka_settings: KafkaSettings) -> None:
    first = Member(kafka_settings)

    def first_holds(count: int) -> bool:
        first.poll()
        return len(first.holds) == count

    until(lambda: first_holds(3), what="all partitions")
    for number in range(3):
        first.consumer.pause(number, (True, True))
    second = Member(kafka_settings)

    def shared() -> bool:
        second.poll()
        return first_holds(3 - len(second.holds)) and bool(second.holds)

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
