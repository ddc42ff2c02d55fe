"""Tells sinks of events: each in a thread of its own, with a position of its own, so that none waits for another.

At least once: a sink's position (offsets of the group PREFIX.notify.NAME) moves once it has taken a change. Kafka does not
manage the members of such a group: there is one process per file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as ClientError

from codecflow.errors import KafkaError, MessageError
from codecflow.kafka.clients import BrokerWatch, consumer, require_broker
from codecflow.kafka.failures import client_error, reason
from codecflow.kafka.history import partitions_of
from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import GracefulStop
from codecflow.messages import decode_event

from .config import Webhook
from .webhook import UndeliveredError, deliver, key_of

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Pauses between tries double from the first to the longest."""

PASSING = frozenset(
    {
        ClientError.NOT_COORDINATOR,
        ClientError.COORDINATOR_NOT_AVAILABLE,
        ClientError.COORDINATOR_LOAD_IN_PROGRESS,
        ClientError.REQUEST_TIMED_OUT,
        ClientError._TIMED_OUT,
        ClientError._TRANSPORT,
        ClientError._WAIT_COORD,
    }
)
"""Errors of a group whose broker is starting or has changed."""

_REQUEST_S = 30.0
_TOLD_EVERY_S = 300.0


class Notifier:
    """Tells `sinks` of events until the stop is requested. A new sink begins with what happens from now on; one that was
    away with what it has not been told. `say` is called, from any thread, with lines for people. Raises KafkaError."""

    def __init__(
        self, settings: KafkaSettings, sinks: Sequence[Webhook], stop: GracefulStop, say: Callable[[str], None]
    ) -> None:
        self._settings, self._sinks, self._stop, self._say = settings, sinks, stop, say
        self._over = threading.Event()
        self._failed: list[Exception] = []

    def run(self) -> None:
        require_broker(self._settings, lambda: self._stop.requested)
        count = partitions_of(self._settings, self._settings.topics.events)
        threads = [threading.Thread(target=self._guarded, args=(sink, count), daemon=True) for sink in self._sinks]
        for thread in threads:
            thread.start()
        while not self._stop.wait(0.2) and not self._failed:
            pass
        self._over.set()
        for sink, thread in zip(self._sinks, threads, strict=True):
            thread.join(sink.timeout_s + _REQUEST_S)
        if self._failed:
            raise self._failed[0]

    def _guarded(self, sink: Webhook, count: int) -> None:
        try:
            self._follow(sink, count)
        except Exception as error:  # noqa: BLE001  # the main thread raises it
            self._failed.append(error)

    def _follow(self, sink: Webhook, count: int) -> None:
        watch = BrokerWatch(self._settings)
        group = f"{self._settings.topic_prefix}.notify.{sink.name}"
        client = consumer(self._settings, group, watch)
        try:
            client.assign(self._position(client, group, count))
            while not self._over.is_set():
                watch.check(client)
                message = client.poll(0.2)
                if message is None:
                    continue
                if (error := message.error()) is not None:
                    if not error.retriable():
                        raise KafkaError(f"topic {self._settings.topics.events}: {self._settings.scrub(error.str())}")
                    continue
                if not self._tell(sink, message):
                    return
                self._patiently(group, partial(client.commit, message=message, asynchronous=False))
        finally:
            client.close()

    def _position(self, client: Consumer, group: str, count: int) -> list[TopicPartition]:
        """Where the sink was left; where it is new, the end, which it is left at from now on."""
        topic = self._settings.topics.events
        asked = [TopicPartition(topic, number) for number in range(count)]
        places: list[TopicPartition] = self._patiently(group, lambda: client.committed(asked, timeout=_REQUEST_S))
        new = [place for place in places or () if place.offset < 0]
        for place in new:
            ends = partial(client.get_watermark_offsets, TopicPartition(topic, place.partition), _REQUEST_S)
            _, place.offset = self._patiently(group, ends)
        if new:
            self._patiently(group, lambda: client.commit(offsets=new, asynchronous=False))
        return places

    def _patiently(self, group: str, ask: Callable[[], Any]) -> Any:
        """What the brokers say. Asks again while they are not ready, as long as a service waits for them."""
        deadline = time.monotonic() + self._settings.gone_after_s
        while True:
            try:
                return ask()
            except KafkaException as error:
                failed = client_error(error)
                passes = failed.retriable() or failed.code() in PASSING
                if not passes or time.monotonic() > deadline or self._over.wait(0.5):
                    raise KafkaError(f"group {group}: {reason(failed, self._settings, 'Read', group)}") from error

    def _tell(self, sink: Webhook, message: Message) -> bool:
        """Until it is taken, or never will be; False where the stop came first."""
        try:
            event = decode_event(message.key(), message.value())
        except MessageError:
            return True
        if not sink.wanted.takes(event):
            return True
        pause_s, since, told_at = FIRST_PAUSE_S, time.monotonic(), 0.0
        tries = 0
        while True:
            tries += 1
            try:
                deliver(sink, event)
            except UndeliveredError as error:
                name = f"sink {sink.name!r} ({sink.host})"
                if error.final:
                    self._say(f"{name}: {error}: {key_of(event)} of stream {event.stream!r} is not told to it")
                    return True
                if time.monotonic() > told_at + _TOLD_EVERY_S or tries == 1:
                    told_at = time.monotonic()
                    lasts_s = told_at - since
                    self._say(f"{name}: {error}; trying again until it takes {key_of(event)} ({lasts_s:.0f} s so far)")
                if self._over.wait(pause_s):
                    return False
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                if tries > 1:
                    self._say(f"sink {sink.name!r} ({sink.host}): takes events again, after {tries} tries")
                return True
