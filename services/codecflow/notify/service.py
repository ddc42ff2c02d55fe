"""Delivers events to sinks: each with its own thread and position, so that none waits for another.

At least once: a sink's position (offsets of the group PREFIX.notify.NAME) advances once it has accepted a change. Kafka does
not manage the members of such a group: there is one process per file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from codecflow.errors import CodecFlowError, KafkaError, MessageError
from codecflow.kafka.clients import BrokerWatch, consumer, require_broker
from codecflow.kafka.compacted import usable_description
from codecflow.kafka.failures import client_error, is_retriable, reason
from codecflow.kafka.partition_reader import partitions_of
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.lifecycle import GracefulStop
from codecflow.messages import Event, StreamDescription, decode_event
from codecflow.storage import Storage

from .figures import NotifierFigures, SinkFigures
from .picture import Pictures
from .sink import Notification, Sink, UndeliveredError, key_of
from .words import words_of

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Pauses between attempts double from the first to the longest."""

_REQUEST_S = 30.0
_NOTICE_EVERY_S = 300.0
_IDLE_EVERY_S, _IDLE_AGAIN_S = 1.0, 30.0


class Notifier:
    """Delivers events to `sinks` until a stop is requested. A new sink starts with future events; an existing one resumes at
    its position. `notice` is called, from any thread, with lines for people. `evidence`: where the recorder writes. Raises
    KafkaError."""

    def __init__(
        self,
        settings: KafkaSettings,
        sinks: Sequence[Sink],
        stop: GracefulStop,
        notice: Callable[[str], None],
        evidence: Storage | None = None,
        figures: NotifierFigures | None = None,
    ) -> None:
        self._settings, self._sinks, self._stop, self._notice = settings, sinks, stop, notice
        self._pictures = Pictures(settings, evidence, notice)
        self._figures = figures or NotifierFigures(sink.options.name for sink in sinks)
        self._streams: Sequence[StreamDescription] = ()
        self._over = threading.Event()
        self._failed: list[Exception] = []

    def run(self) -> None:
        require_broker(self._settings, lambda: self._stop.requested)
        count = partitions_of(self._settings, self._settings.topics.events)
        works: list[tuple[Callable[[], None], float]] = [
            (partial(self._follow, sink, count), sink.options.timeout_s) for sink in self._sinks
        ]
        if any(sink.needs_streams for sink in self._sinks):
            works.append((self._follow_streams, 0.0))
        threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work, _ in works]
        for thread in threads:
            thread.start()
        while not self._stop.wait(0.2) and not self._failed:
            pass
        self._over.set()
        for thread, (_, timeout_s) in zip(threads, works, strict=True):
            thread.join(timeout_s + _REQUEST_S)
        if self._failed:
            raise self._failed[0]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  # the main thread raises it
            self._failed.append(error)

    def _follow_streams(self) -> None:
        """In a thread: follows the descriptions of all streams."""
        found: dict[str, StreamDescription] = {}
        with TopicTail(self._settings, self._settings.topics.streams, stopping=self._over.is_set) as tail:
            while not self._over.is_set():
                messages = tail.poll(0.5)
                for message in messages:
                    try:
                        one = usable_description(message, tail.partitions)
                    except MessageError:
                        continue  # the worker reports it
                    if one is None:
                        continue
                    found[one.stream] = one
                    if message.value() is None:
                        del found[one.stream]
                if messages:
                    self._streams = tuple(found.values())

    def _follow(self, sink: Sink, count: int) -> None:
        """In a thread: the events of one sink."""
        figures = self._figures.sinks[sink.options.name]
        watch = BrokerWatch(self._settings)
        group = f"{self._settings.topic_prefix}.notify.{sink.options.name}"
        client = consumer(self._settings, group, watch)
        idle_at, idle_reported = 0.0, False
        try:
            client.assign(self._position(client, group, count))
            figures.following = True
            while not self._over.is_set():
                figures.heartbeat.beat()
                watch.check(client)
                message = client.poll(0.2)
                if message is None:
                    if time.monotonic() > idle_at:
                        idle_at, idle_reported = self._idle(sink, idle_reported)
                    continue
                if (error := message.error()) is not None:
                    if not is_retriable(error):
                        raise KafkaError(f"topic {self._settings.topics.events}: {self._settings.scrub(error.str())}")
                    continue
                if not self._take(sink, figures, message):
                    return
                self._retry(group, partial(client.commit, message=message, asynchronous=False))
        finally:
            figures.heartbeat.end()
            sink.close()
            client.close()

    def _idle(self, sink: Sink, reported: bool) -> tuple[float, bool]:
        """Let a sink maintain its connection: returns when to do so again, and whether a failure has been reported."""
        try:
            sink.idle(self._streams)
        except UndeliveredError as error:
            if not reported:
                self._notice(f"sink {sink.options.name!r} ({sink.place}): {error}; retrying")
            return time.monotonic() + _IDLE_AGAIN_S, True
        return time.monotonic() + _IDLE_EVERY_S, False

    def _position(self, client: Consumer, group: str, count: int) -> list[TopicPartition]:
        """The sink's committed position; for a new sink the end, which is then committed."""
        topic = self._settings.topics.events
        partitions = [TopicPartition(topic, number) for number in range(count)]
        places: list[TopicPartition] = self._retry(group, lambda: client.committed(partitions, timeout=_REQUEST_S))
        new = [place for place in places or () if place.offset < 0]
        for place in new:
            ends = partial(client.get_watermark_offsets, TopicPartition(topic, place.partition), _REQUEST_S)
            _, place.offset = self._retry(group, ends)
        if new:
            self._retry(group, lambda: client.commit(offsets=new, asynchronous=False))
        return places

    def _retry(self, group: str, request: Callable[[], Any]) -> Any:
        """A broker's answer. Retries while brokers are not ready, as long as a service waits for them."""
        deadline = time.monotonic() + self._settings.give_up_after_s
        while True:
            try:
                return request()
            except KafkaException as error:
                failed = client_error(error)
                passes = is_retriable(failed)
                if not passes or time.monotonic() > deadline or self._over.wait(0.5):
                    raise KafkaError(f"group {group}: {reason(failed, self._settings, 'Read', group)}") from error

    def _take(self, sink: Sink, figures: SinkFigures, message: Message) -> bool:
        """Retries until the sink has accepted or finally refused the change; False if the stop came first."""
        try:
            event = decode_event(message.key(), message.value())
        except MessageError:
            return True
        if not sink.options.filter.matches(event):
            return True
        notification = self._notification(sink, event)
        name = f"sink {sink.options.name!r} ({sink.place})"
        pause_s, since, notice_at = FIRST_PAUSE_S, time.monotonic(), 0.0
        tries = 0
        while not self._over.is_set():
            tries += 1
            figures.heartbeat.beat()
            try:
                sink.deliver(notification)
            except UndeliveredError as error:
                if error.final:
                    self._notice(f"{name}: {error}: {key_of(event)} of stream {event.stream!r} is not delivered to it")
                    return self._done(figures, "refused")
                figures.failures += 1
                figures.failing_since = since
                if tries == 1 or time.monotonic() > notice_at + _NOTICE_EVERY_S:
                    notice_at = time.monotonic()
                    self._notice(
                        f"{name}: {error}; retrying until it accepts {key_of(event)} ({notice_at - since:.0f} s so far)"
                    )
                self._over.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                if tries > 1:
                    self._notice(f"{name}: accepts events again, after {tries} tries")
                return self._done(figures, "delivered")
        return False

    def _notification(self, sink: Sink, event: Event) -> Notification:
        text, words = sink.options.text, ""
        if text.needs_words:
            try:
                words = words_of(self._settings, event, self._over.is_set)
            except CodecFlowError as error:
                self._notice(f"event {event.id} of stream {event.stream!r} is sent without the model's words: {error}")
        picture = self._pictures.of(event, self._over.is_set) if sink.options.picture else None
        return Notification(event, text.of(event, words), picture)

    @staticmethod
    def _done(figures: SinkFigures, outcome: str) -> bool:
        figures.outcomes[outcome] += 1
        figures.failing_since = None
        return True
