"""The worker's consumer: packets and metadata, the same partitions of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as ClientError

from codecflow.errors import KafkaError
from codecflow.kafka.clients import BrokerWatch, consumer
from codecflow.kafka.failures import TopicsError, client_error
from codecflow.kafka.settings import KafkaSettings

from .feed import Offsets

_BATCH = 200
_REQUEST_S = 30.0
_OWN = {
    # With equal partition counts `range` gives one member the same partitions of both topics; the others do not.
    "partition.assignment.strategy": "range",
    "enable.partition.eof": True,
    # A dead worker's partitions are given to others after so long.
    "session.timeout.ms": 15_000,
    "heartbeat.interval.ms": 3_000,
    "max.poll.interval.ms": 300_000,
    # What was fetched ahead is fetched again after a pause, so little is.
    "queued.max.messages.kbytes": 16_384,
}
REVOKE_WITHIN_S = 60.0
"""How long the work in progress may go on once partitions are taken away: the group waits for this worker until
max.poll.interval.ms (5 minutes) is over; a fifth of it leaves room for the transaction and for a slow broker."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record, or with `message` None the news that the topic has been read to its present end. `topic`: 0 packets, 1
    metadata."""

    topic: int
    partition: int
    message: Message | None


class Intake:
    """A member of the worker group.

    `assigned` is called with the partitions and where the group has come to in them; it gives the offsets to begin at.
    `revoked` is called when they are taken away, with True when they are lost already, so that nothing can be emitted for
    them. Both run within `poll`.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        assigned: Callable[[dict[int, Offsets]], dict[int, Offsets]],
        revoked: Callable[[list[int], bool], None],
    ) -> None:
        self._settings = settings
        self.topics = (settings.topics.packets, settings.topics.metadata)
        self._watch = BrokerWatch(settings)
        self._consumer: Consumer = consumer(settings, settings.worker_group, self._watch, **_OWN)
        self._assigned, self._revoked = assigned, revoked
        self._paused: set[tuple[int, int]] = set()
        self._begun: list[TopicPartition] | None = None
        self._consumer.subscribe(
            list(self.topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, timeout_s: float) -> list[Arrival]:
        """What has arrived, in the order of each topic. Raises KafkaError (BrokersGoneError, TopicsError)."""
        self._watch.check(self._consumer)
        self._begun = None
        messages = self._consumer.consume(_BATCH, timeout_s)
        if self._begun is not None:
            # Partitions were assigned meanwhile. Some of these messages may be from before, of a partition that is now to
            # be read again from an earlier offset: begin anew, with nothing on the way.
            self._consumer.assign(self._begun)
            self._consumer.resume(self._begun)  # librdkafka keeps a pause through revocation and assignment
            return []
        arrivals = []
        for message in messages:
            error = message.error()
            if error is None:
                arrivals.append(self._arrival(message, message))
            elif error.code() == ClientError._PARTITION_EOF:
                arrivals.append(self._arrival(message, None))
            elif error.code() in (ClientError.UNKNOWN_TOPIC_OR_PART, ClientError._UNKNOWN_TOPIC):
                raise TopicsError(f"topic {message.topic()} is missing: run: codecflow topics create")
            elif error.fatal() or not (error.retriable() or error.code() < 0):
                raise KafkaError(f"topic {message.topic()}: {self._settings.scrub(error.str())}")
        return arrivals

    def pause(self, partition: int, full: tuple[bool, bool]) -> None:
        """Stop or go on reading the two topics of a partition. The client itself goes on polling."""
        for topic, stop in enumerate(full):
            place = (topic, partition)
            if stop == (place in self._paused):
                continue
            which = [TopicPartition(self.topics[topic], partition)]
            if stop:
                self._consumer.pause(which)
                self._paused.add(place)
            else:
                self._consumer.resume(which)
                self._paused.discard(place)

    def lag(self, positions: dict[int, Offsets]) -> int:
        """Records of both topics that were not read yet, as far as the client knows by now."""
        total = 0
        for number, offsets in positions.items():
            for topic, position in zip(self.topics, offsets, strict=True):
                _, high = self._consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True) or (0, 0)
                total += max(0, high - position)
        return total

    def offsets(self, number: int, offsets: Offsets) -> list[TopicPartition]:
        """As a transaction takes them."""
        return [TopicPartition(topic, number, offset) for topic, offset in zip(self.topics, offsets, strict=True)]

    def group(self) -> object:
        """What a transaction needs to know of this member's place in its group, after the last poll."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Leave the group; partitions still held are revoked."""
        self._consumer.close()

    def _arrival(self, message: Message, content: Message | None) -> Arrival:
        topic, partition = message.topic(), message.partition()
        assert topic is not None
        assert partition is not None
        return Arrival(self.topics.index(topic), partition, content)

    def _committed(self, partitions: Iterable[int], within_s: float = 60.0) -> dict[int, Offsets]:
        """Where the group has come to; negative where it has not been. Waits for transactions in progress.

        Raises KafkaError when there is no answer within `within_s` seconds.
        """
        asked = [TopicPartition(topic, number) for number in partitions for topic in self.topics]
        if not asked:
            return {}
        deadline = time.monotonic() + within_s
        while True:
            try:
                found = self._consumer.committed(asked, timeout=_REQUEST_S)
                if all(place.error is None for place in found):
                    break
                reason = next(str(place.error) for place in found if place.error is not None)
            except KafkaException as error:
                reason = client_error(error).str()
            if time.monotonic() > deadline:
                raise KafkaError(f"group offsets cannot be read: {self._settings.scrub(reason)}")
            time.sleep(0.2)
        pairs = zip(found[::2], found[1::2], strict=True)
        return {packets.partition: (packets.offset, metadata.offset) for packets, metadata in pairs}

    def _within(self, number: int, offsets: Offsets) -> Offsets:
        """The offsets, if the topics still hold them; else the beginning of what they hold."""
        found = []
        for place in self.offsets(number, offsets):
            low, high = self._consumer.get_watermark_offsets(place, timeout=_REQUEST_S)
            found.append(place.offset if low <= place.offset <= high else low)
        return found[0], found[1]

    def _numbers(self, places: Iterable[TopicPartition]) -> list[int]:
        """Partition numbers. Raises KafkaError when the two topics are not assigned alike."""
        places = list(places)
        packets, metadata = (sorted(p.partition for p in places if p.topic == topic) for topic in self.topics)
        if packets != metadata:
            raise KafkaError(
                f"assigned partitions {packets} of {self.topics[0]} but {metadata} of {self.topics[1]}: one worker must own "
                f"the same of both; give them equal partition counts, and every worker partition.assignment.strategy=range"
            )
        return packets

    def _on_assign(self, client: Consumer, places: list[TopicPartition]) -> None:
        self._paused.clear()
        numbers = self._numbers(places)
        committed = {number: self._within(number, offsets) for number, offsets in self._committed(numbers).items()}
        begin = self._assigned(committed)
        self._begun = [place for number in numbers for place in self.offsets(number, begin[number])]
        client.assign(self._begun)

    def _on_revoke(self, client: Consumer, places: list[TopicPartition]) -> None:
        self._revoked(self._numbers(places), False)

    def _on_lost(self, client: Consumer, places: list[TopicPartition]) -> None:
        self._revoked(self._numbers(places), True)
