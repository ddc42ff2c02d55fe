"""Packets of watched streams: one consumer in one thread for all viewers.

A partition is read while one of its streams is watched. The pictures since the last keyframe are kept for each of its
streams, so that the next viewer sees a picture immediately.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, Message, TopicPartition

from codecflow.errors import KafkaError, MessageError
from codecflow.kafka.clients import BrokerWatch, consumer
from codecflow.kafka.failures import client_error, is_retriable, reason
from codecflow.kafka.partition_reader import partitions_of
from codecflow.kafka.records import headers_of, is_future
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import partition_of
from codecflow.kafka.unreadable import NO_GROUP, RETRIES, UNREADABLE, RecordSkipper
from codecflow.messages import CodedPicture, decode_packet

Listener = Callable[[CodedPicture], None]

LOOK_BACK_MS = 12_000
"""How far back reading of a partition starts: this should include a keyframe of each stream."""

_GOP_BYTES = 8 << 20
_ALL_BYTES = 192 << 20
_POLL_S = 0.1
_REQUEST_S, _RETRY_S = 5.0, 0.2
_logger = logging.getLogger("codecflow.page")


class _Gops:
    """The pictures since the last keyframe of each stream; the least recently shown streams are dropped first."""

    def __init__(self) -> None:
        self._gops: OrderedDict[str, list[CodedPicture]] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._total = 0

    def add(self, picture: CodedPicture) -> bool:
        """Whether it is to be passed on: pictures of an earlier epoch than the newest are not."""
        stream = picture.stream
        gop = self._gops.get(stream)
        if gop and picture.epoch < gop[-1].epoch:
            return False
        if picture.keyframe:
            self.drop(stream)
            gop = self._gops[stream] = []
            self._sizes[stream] = 0
        if gop is None or not (picture.keyframe or gop) or (gop and picture.epoch != gop[-1].epoch):
            return True
        gop.append(picture)
        self._sizes[stream] += len(picture.data)
        self._total += len(picture.data)
        self._gops.move_to_end(stream)
        if self._sizes[stream] > _GOP_BYTES:
            self.drop(stream)
        while self._total > _ALL_BYTES:
            self.drop(next(iter(self._gops)))
        return True

    def of(self, stream: str) -> list[CodedPicture]:
        return list(self._gops.get(stream, ()))

    def drop(self, stream: str) -> None:
        self._gops.pop(stream, None)
        self._total -= self._sizes.pop(stream, 0)

    def streams(self) -> list[str]:
        return list(self._gops)


class Feed:
    """Passes the coded pictures of watched streams to listeners, in the feed's thread, starting with those since the last
    keyframe. `failed` is called, from there, with the error that ended it. Raises KafkaError when the packets topic is
    missing."""

    def __init__(self, settings: KafkaSettings, failed: Callable[[Exception], None]) -> None:
        self._settings, self._failed = settings, failed
        self._topic = settings.topics.packets
        self._partitions = partitions_of(settings, self._topic)
        self._watch = BrokerWatch(settings)
        self._consumer = consumer(
            settings,
            f"{settings.topic_prefix}.page",
            self._watch,
            **{
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": 32_768,
                "enable.partition.eof": False,
                **RETRIES,
            },
        )
        self._skipper = RecordSkipper(self._consumer)
        self._commands: SimpleQueue[tuple[bool, str, Listener]] = SimpleQueue()
        self._listeners: dict[str, list[Listener]] = {}
        self._reading: set[int] = set()
        self._assign_at = math.inf  # monotonic
        self._gops = _Gops()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page-feed", daemon=True)
        self._thread.start()

    def watch(self, stream: str, listener: Listener) -> None:
        """Thread-safe."""
        self._commands.put((True, stream, listener))

    def unwatch(self, stream: str, listener: Listener) -> None:
        """Thread-safe. The listener may still be called once or twice."""
        self._commands.put((False, stream, listener))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._apply()
                self._watch.check(self._consumer)
                if not self._reading:
                    self._stop.wait(0.03)
                    self._consumer.poll(0)
                    continue
                first = self._consumer.poll(_POLL_S)
                skipped: set[int | None] = set()
                for message in () if first is None else (first, *self._consumer.consume(500, 0)):
                    self._take(message, skipped)
        except (KafkaError, KafkaException) as error:
            self._failed(error)
        finally:
            with suppress(KafkaException):
                self._consumer.close()

    def _apply(self) -> None:
        """Apply changes of viewers."""
        with suppress(Empty):
            while True:
                begin, stream, listener = self._commands.get_nowait()
                listeners = self._listeners.setdefault(stream, [])
                if begin:
                    for picture in self._gops.of(stream):
                        self._deliver(listener, picture)
                    listeners.append(listener)
                elif listener in listeners:
                    listeners.remove(listener)
                if not listeners:
                    del self._listeners[stream]
                self._assign_at = 0.0
        if time.monotonic() >= self._assign_at:
            self._assign_at = math.inf if self._assign() else time.monotonic() + _RETRY_S

    def _assign(self) -> bool:
        """Read the partitions of watched streams. False if a broker is starting, or another one leads a partition now: to be
        repeated."""
        wanted = {partition_of(stream, self._partitions) for stream in self._listeners}
        for number in self._reading - wanted:
            self._consumer.incremental_unassign([TopicPartition(self._topic, number)])
            for stream in self._gops.streams():
                if partition_of(stream, self._partitions) == number:
                    self._gops.drop(stream)
        self._reading &= wanted
        if new := sorted(wanted - self._reading):
            since = int(time.time() * 1000) - LOOK_BACK_MS
            positions = [TopicPartition(self._topic, number, since) for number in new]
            try:
                found = self._consumer.offsets_for_times(positions, timeout=_REQUEST_S)
            except KafkaException as error:
                if not is_retriable(client_error(error)):
                    raise
                _logger.debug("topic %s: %s", self._topic, error)
                return False
            # -1: there is nothing newer; start with future records.
            self._consumer.incremental_assign(found)
        self._reading = wanted
        return True

    def _take(self, message: Message, skipped: set[int | None]) -> None:
        """`skipped`: partitions in which this call skipped a record that cannot be unpacked."""
        error = message.error()
        if error is not None:
            if error.code() in UNREADABLE:
                if message.partition() not in skipped:
                    self._skipper.skip(message)
                skipped.add(message.partition())
            elif not is_retriable(error) and error.code() not in (ClientError._PARTITION_EOF, NO_GROUP):
                raise KafkaError(f"topic {self._topic}: {reason(error, self._settings, 'Read', self._topic)}")
            return
        try:
            picture = decode_packet(message.key(), message.value(), headers_of(message))
        except MessageError:
            return  # the worker reports it
        if is_future(picture.epoch, message):
            return
        if self._gops.add(picture):
            for listener in tuple(self._listeners.get(picture.stream, ())):
                self._deliver(listener, picture)

    def _deliver(self, listener: Listener, picture: CodedPicture) -> None:
        try:
            listener(picture)
        except Exception:  # one stream's picture must not stop the others
            _logger.debug("stream %r", picture.stream, exc_info=True)
