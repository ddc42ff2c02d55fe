"""Input from Kafka: a member of the worker group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as ClientError

from codecflow.errors import KafkaError
from codecflow.kafka.clients import BrokerWatch, admin_client, consumer
from codecflow.kafka.failures import TopicsError, client_error, is_retriable, reason
from codecflow.kafka.retry_deadline import RetryDeadline
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.unreadable import REASON, RETRIES, UNREADABLE, RecordSkipper
from codecflow.messages import Headers

from .resume import Offsets

_BATCH = 500
_REQUEST_S = 10.0
_FORBIDDEN = (ClientError.GROUP_AUTHORIZATION_FAILED, ClientError.TOPIC_AUTHORIZATION_FAILED)
_REFUSED_MEMBER = (
    ClientError.INCONSISTENT_GROUP_PROTOCOL,
    ClientError.INVALID_SESSION_TIMEOUT,
    ClientError.GROUP_MAX_SIZE_REACHED,
    ClientError.FENCED_INSTANCE_ID,
)
_OWN = {
    # With equal partition counts, `range` assigns a member the same partitions of both topics; other assignors do not.
    "partition.assignment.strategy": "range",
    "enable.partition.eof": True,
    # After this time a dead worker's partitions are reassigned.
    "session.timeout.ms": 15_000,
    "heartbeat.interval.ms": 3_000,
    "max.poll.interval.ms": 300_000,
    # Records fetched ahead are fetched again after a pause, so keep few.
    "queued.max.messages.kbytes": 16_384,
    **RETRIES,
}
REVOKE_WITHIN_S = 60.0
"""How long work in progress may continue after partitions are revoked. The group waits for this worker for up to
max.poll.interval.ms (5 minutes); a fifth of it leaves room for the transaction and for a slow broker."""


class Received(Protocol):
    """The part of Message that is used."""

    def key(self) -> bytes | None: ...

    def value(self) -> bytes | None: ...

    def headers(self) -> Headers | None: ...

    def offset(self) -> int | None: ...

    def timestamp(self) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Replaces a record that the client cannot unpack."""

    offset: int
    reason: str = REASON


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record, or with `message` None a notice that the topic has been read to its current end. `topic`: PACKETS or
    METADATA."""

    topic: int
    partition: int
    message: Received | Unreadable | None


class GroupConsumer:
    """A member of the worker group.

    `assigned` is called with the partitions and their committed offsets; it returns the offsets to start at. `revoked` is
    called when partitions are revoked, with True when they are lost already, so that nothing can be emitted for them. Both
    run within `poll`. `notice` is called with lines for people. `stopping`: whether the worker is to stop, so that it does
    not wait for brokers that are down. `records_expired`: records deleted by retention before they were read."""

    def __init__(
        self,
        settings: KafkaSettings,
        assigned: Callable[[dict[int, Offsets]], dict[int, Offsets]],
        revoked: Callable[[list[int], bool], None],
        notice: Callable[[str], None],
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings, self._notice = settings, notice
        self.topics = (settings.topics.packets, settings.topics.metadata)
        self._watch = BrokerWatch(settings)
        self._deadline = RetryDeadline(settings, self._watch, stopping)
        self._consumer: Consumer = consumer(settings, settings.worker_group, self._watch, **_OWN)
        # Not the consumer: within its callbacks, confluent-kafka (2.16) forgets the call in progress when it lists topics,
        # and aborts the process at the next callback.
        self._probe = admin_client(settings)
        self._assigned, self._revoked = assigned, revoked
        self._skipper = RecordSkipper(self._consumer)
        self._paused: set[tuple[int, int]] = set()
        self._new_assignment: list[TopicPartition] | None = None
        self._closing = False
        self._next: dict[tuple[str, int], int] = {}
        self.records_expired = 0
        self._consumer.subscribe(
            list(self.topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, timeout_s: float) -> list[Arrival]:
        """Received records, in the order of each topic. Raises KafkaError (BrokersGoneError, TopicsError)."""
        self._watch.check(self._consumer)
        self._new_assignment = None
        try:
            messages = self._consumer.consume(_BATCH, timeout_s)
        except KafkaException as error:
            raise self._error("records cannot be read", client_error(error)) from error
        if self._new_assignment is not None:
            # Partitions were assigned in this call. Some of these messages may precede that and belong to a partition that
            # is read again from an earlier offset: discard them and restart cleanly.
            self._place(self._new_assignment)
            return []
        arrivals = []
        skipped: set[tuple[str | None, int | None]] = set()
        for message in messages:
            failure = message.error()
            if failure is None:
                self._follow(message)
                arrivals.append(self._arrival(message, message))
            elif failure.code() == ClientError._PARTITION_EOF:
                arrivals.append(self._arrival(message, None))
            elif failure.code() in UNREADABLE:
                place = (message.topic(), message.partition())
                if place not in skipped and (at := self._skipper.skip(message)) is not None:
                    arrivals.append(self._arrival(message, Unreadable(at)))
                skipped.add(place)
            elif failure.code() in (ClientError.UNKNOWN_TOPIC_OR_PART, ClientError._UNKNOWN_TOPIC):
                raise TopicsError(f"topic {message.topic()} is missing: run: codecflow topics create")
            elif failure.code() in _REFUSED_MEMBER:
                raise KafkaError(
                    f"group {self._settings.worker_group}: {self._settings.scrub(failure.str())}: its members must be "
                    f"workers with equal partition.assignment.strategy, and session.timeout.ms within the broker's limits"
                )
            elif failure.fatal() or not (is_retriable(failure) or failure.code() < 0):
                what = "records cannot be read" if message.topic() is None else f"topic {message.topic()}"
                raise self._error(what, failure)
        return arrivals

    def pause(self, partition: int, full: tuple[bool, bool]) -> None:
        """Pause or resume the two topics of a partition. The client keeps polling. Raises KafkaError."""
        for topic, stop in enumerate(full):
            place = (topic, partition)
            if stop == (place in self._paused):
                continue
            which = [TopicPartition(self.topics[topic], partition)]
            try:
                if stop:
                    self._consumer.pause(which)
                    self._paused.add(place)
                else:
                    self._consumer.resume(which)
                    self._paused.discard(place)
            except KafkaException as error:
                raise self._error(
                    f"topic {self.topics[topic]} cannot be paused or resumed", client_error(error)
                ) from error

    def offsets(self, number: int, offsets: Offsets) -> list[TopicPartition]:
        """In the form that a transaction takes."""
        return [TopicPartition(topic, number, offset) for topic, offset in zip(self.topics, offsets, strict=True)]

    def group(self) -> Any:
        """This member's group metadata after the last poll, as a transaction needs it."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Leave the group; partitions still owned are revoked."""
        self._closing = True
        self._consumer.close()

    def _arrival(self, message: Message, content: Message | Unreadable | None) -> Arrival:
        topic, partition = message.topic(), message.partition()
        assert topic is not None
        assert partition is not None
        return Arrival(
            self.topics.index(topic), partition, cast("Received | Unreadable | None", content)
        )  # values are bytes

    def _follow(self, message: Message) -> None:
        """Retention may overtake a slow worker; the client then silently continues at the oldest record left."""
        topic, number, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert number is not None
        assert offset is not None
        place = (topic, number)
        expected = self._next.get(place, offset)
        self._next[place] = offset + 1
        if offset <= expected:
            return
        try:
            low, _ = self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_REQUEST_S)
        except KafkaException:
            return
        # Otherwise it was skipped, or is a transaction marker.
        if low > expected:
            self._report_expired(topic, number, expected, min(low, offset))

    def _report_expired(self, topic: str, number: int, begin: int, end: int) -> None:
        self.records_expired += end - begin
        self._notice(
            f"{topic}[{number}]: offsets {begin} to {end - 1} were deleted by retention before they were read: "
            f"{end - begin} records; keep topics longer, or add workers"
        )

    def _place(self, places: list[TopicPartition]) -> None:
        try:
            self._skipper.forget()
            self._next = {(place.topic, place.partition): place.offset for place in places}
            self._consumer.assign(places)
            self._consumer.resume(places)  # librdkafka keeps a pause through revocation and assignment
        except KafkaException as error:
            raise self._error("assigned partitions cannot be read", client_error(error)) from error

    def _error(self, what: str, error: ClientError) -> KafkaError:
        group = error.code() == ClientError.GROUP_AUTHORIZATION_FAILED
        name = self._settings.worker_group if group else " and ".join(self.topics)
        return KafkaError(f"{what}: {reason(error, self._settings, 'Read', name)}")

    def _retry(self, request: Callable[[], Any], what: str) -> Any:
        """The answer to a request to the broker, retried while it fails: broker restarts and leader changes are normal.
        Raises KafkaError (BrokersGoneError when brokers have been down for too long)."""
        self._deadline.begin()
        while True:
            try:
                return request()
            except KafkaException as error:
                failure = client_error(error)
                if failure.fatal() or failure.code() in _FORBIDDEN:
                    raise self._error(what, failure) from error
                self._deadline.check(self._probe, what, failure.str())
            time.sleep(0.2)

    def _committed(self, partitions: Iterable[int]) -> dict[int, Offsets]:
        """The group's committed offsets; negative where there are none. Waits for transactions in progress."""
        places = [TopicPartition(topic, number) for number in partitions for topic in self.topics]
        if not places:
            return {}

        def request() -> list[TopicPartition]:
            found = self._consumer.committed(places, timeout=_REQUEST_S)
            for place in found:
                if place.error is not None:
                    raise KafkaException(place.error)
            return found

        found = self._retry(request, "group offsets cannot be read")
        pairs = zip(found[::2], found[1::2], strict=True)
        return {packets.partition: (packets.offset, metadata.offset) for packets, metadata in pairs}

    def _within(self, number: int, offsets: Offsets) -> Offsets:
        """The offsets if the topics still hold them, else the start of what they hold."""
        found = []
        for place in self.offsets(number, offsets):
            low, high = self._retry(
                partial(self._consumer.get_watermark_offsets, place, timeout=_REQUEST_S),
                f"the ends of topic {place.topic}[{number}] cannot be read",
            )
            if 0 <= place.offset < low:
                self._report_expired(place.topic, number, place.offset, low)
            found.append(place.offset if low <= place.offset <= high else low)
        return found[0], found[1]

    def _numbers(self, places: Iterable[TopicPartition]) -> list[int]:
        """Partition numbers. Raises KafkaError when the two topics are assigned differently."""
        places = list(places)
        packets, metadata = (sorted(p.partition for p in places if p.topic == topic) for topic in self.topics)
        if packets != metadata:
            raise KafkaError(
                f"assigned partitions {packets} of {self.topics[0]} but {metadata} of {self.topics[1]}: one worker must own "
                f"the same of both; give them equal partition counts, every worker partition.assignment.strategy=range, and "
                f"see that no other program is in group {self._settings.worker_group}"
            )
        return packets

    def _on_assign(self, client: Consumer, places: list[TopicPartition]) -> None:
        if self._closing:  # an assignment that arrives meanwhile; the client answers no more requests
            return
        self._paused.clear()
        numbers = self._numbers(places)
        committed = {number: self._within(number, offsets) for number, offsets in self._committed(numbers).items()}
        begin = self._assigned(committed)
        self._new_assignment = [place for number in numbers for place in self.offsets(number, begin[number])]
        self._place(self._new_assignment)

    def _on_revoke(self, client: Consumer, places: list[TopicPartition]) -> None:
        self._revoked(self._numbers(places), False)

    def _on_lost(self, client: Consumer, places: list[TopicPartition]) -> None:
        self._revoked(self._numbers(places), True)
