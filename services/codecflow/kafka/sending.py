"""Sending records outside transactions: in order, without loss, limited by the brokers' pace."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, Message, Producer

from codecflow.errors import KafkaError

from .clients import BrokerWatch, admin_client, producer
from .failures import BrokersGoneError, DeliveryError, client_error, serve
from .records import Record, Report, delivery_failure, produce
from .retry_deadline import RetryDeadline
from .settings import KafkaSettings

_logger = logging.getLogger("codecflow.kafka")

_STALLED_S = 20.0
"""Without an acknowledgement for this long although a broker answers, the client's and the broker's sequence numbers
disagree. This happens after a crash (Kafka 4.3.1: permanent OUT_OF_ORDER_SEQUENCE_NUMBER). A new client then resends what
waits."""
_PROBE_EVERY_S, _PROBE_WITHIN_S = 5.0, 2.0
_RENEWALS = 3
"""Limit on consecutive new clients without an acknowledgement between them."""


class RecordSender:
    """An idempotent producer that reports the first failed record, at the next call.

    Each record is written once, in order, as long as its client lives. A client that fails permanently, or hangs while
    brokers answer, is replaced; records that were written but not acknowledged are then written a second time, and readers
    recognise them by their keys and numbers. Not thread-safe. `stopping`: whether the service is to stop, so that it does
    not wait for brokers that are down. `properties` are librdkafka's, for this sender only.
    """

    def __init__(
        self, settings: KafkaSettings, stopping: Callable[[], bool] = lambda: False, **properties: Any
    ) -> None:
        self._settings, self._properties = settings, properties
        self._watch = BrokerWatch(settings)
        self._deadline = RetryDeadline(settings, self._watch, stopping)
        self._failure: KafkaError | None = None
        self._waiting: dict[int, Record] = {}  # not acknowledged yet, oldest first
        self._sent = 0
        self._renewals = 0
        self._broken = ""
        self._timed_out: KafkaError | None = None
        self._next_probe = 0.0
        self._answers_since: float | None = None
        self._producer = self._new_producer()

    def __enter__(self) -> RecordSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush. If an exception is propagating, wait only a moment for acknowledgements, and not at all without brokers."""
        if kind is None:
            self.flush()
        elif not issubclass(kind, BrokersGoneError):
            with suppress(KafkaException):
                serve(lambda: self._producer.flush(1.0))

    def send(self, record: Record) -> None:
        """Queue `record`; it leaves within librdkafka's linger.ms. Blocks while the queue is full.

        Raises the failure of an earlier record (RecordTooLargeError, DeliveryError, BrokersGoneError), once.
        """
        self._raise_failure()
        self._replace_broken_client()
        if not self._waiting:
            self._progressed()
        number, self._sent = self._sent, self._sent + 1
        self._waiting[number] = record
        while not self._queued(number, record):
            # A full queue is flow control: the brokers are currently slower than the source.
            self.poll(0.1)
        self._serve(0.0)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports for up to `timeout_s` seconds. To be called when nothing has been sent for a while.

        Raises as `send` does.
        """
        self._serve(timeout_s)
        self._raise_failure()
        self._replace_broken_client()
        self._watch.check(self._producer)
        if self._waiting:
            self._deadline.check(self._producer, f"{len(self._waiting)} records were not acknowledged")

    def flush(self, within_s: float | None = None) -> None:
        """Return once every record is acknowledged, however long it takes where `within_s` is None.

        Raises as `send` does; DeliveryError when `within_s` seconds were not enough.
        """
        deadline = None if within_s is None else time.monotonic() + within_s
        while self._waiting:
            try:
                serve(lambda: self._producer.flush(0.5))
            except KafkaException as error:
                self._broken = client_error(error).str()
            self.poll()
            if deadline is not None and time.monotonic() > deadline:
                raise DeliveryError(
                    f"{len(self._waiting)} records are not acknowledged after {within_s:g} s{self._watch.because}"
                )
        self._raise_failure()

    @property
    def unacknowledged(self) -> int:
        """Records sent that no broker has acknowledged yet."""
        return len(self._waiting)

    def _new_producer(self) -> Producer:
        return producer(self._settings, self._watch, **self._properties)

    def _queued(self, number: int, record: Record) -> bool:
        """False while the queue is full. If the client can no longer send a record, the record waits for the next client."""
        if number not in self._waiting or self._broken:
            return True
        try:
            produce(record, self._producer, self._on_delivery(self._producer, number, record))
        except BufferError:
            return False
        except KafkaException as error:
            if _is_fatal(client_error(error)):
                self._broken = client_error(error).str()
                return True
            del self._waiting[number]
            raise delivery_failure(record, client_error(error), self._settings, self._watch.because) from error
        return True

    def _on_delivery(self, client: Producer, number: int, record: Record) -> Report:
        def report(error: ClientError | None, message: Message) -> None:
            if error is None:
                self._waiting.pop(number, None)
                self._renewals = 0
                self._progressed()
            elif client is self._producer:
                if _is_fatal(error):
                    self._broken = self._broken or error.str()
                elif error.code() == ClientError._MSG_TIMED_OUT and number in self._waiting:
                    because = self._watch.because
                    self._timed_out = self._timed_out or delivery_failure(record, error, self._settings, because)
                elif self._waiting.pop(number, None) is not None and self._failure is None:
                    self._failure = delivery_failure(record, error, self._settings, self._watch.because)

        return report

    def _serve(self, timeout_s: float) -> None:
        try:
            serve(lambda: self._producer.poll(timeout_s))
        except KafkaException as error:
            self._broken = client_error(error).str()

    def _progressed(self) -> None:
        self._deadline.begin()
        self._next_probe = time.monotonic() + _STALLED_S
        self._answers_since = None

    def _replace_broken_client(self) -> None:
        """Replace a client that is broken or hangs."""
        self._handle_time_out()
        now = time.monotonic()
        if not self._broken:
            if not self._waiting or now < self._next_probe:
                return
            self._next_probe = now + _PROBE_EVERY_S
            if not self._watch.answered(self._producer, _PROBE_WITHIN_S):
                if self._watch.down:  # otherwise it may only be slow
                    self._answers_since = None
                return
            self._answers_since = self._answers_since or now
            if now < self._answers_since + _STALLED_S / 2:
                return
        reason, self._broken = self._broken or "nothing is acknowledged", ""
        if self._renewals == _RENEWALS:
            raise DeliveryError(f"Kafka at {self._settings.bootstrap_servers}: records are not accepted: {reason}")
        self._renewals += 1
        _logger.debug("%s; a new client sends %d records again", reason, len(self._waiting))
        former, self._producer = self._producer, self._new_producer()
        with suppress(KafkaException):
            former.purge()
            serve(lambda: former.poll(0))
        self._next_probe, self._answers_since = now + _STALLED_S * (1 + self._renewals), None
        for number, record in list(self._waiting.items()):
            while not self._queued(number, record):
                self._serve(0.1)
                self._deadline.check(self._producer, f"{len(self._waiting)} records were not acknowledged")

    def _handle_time_out(self) -> None:
        """A record has waited for `give_up_after_s`. If a broker answers another client, this client is at fault."""
        if (failure := self._timed_out) is None:
            return
        self._timed_out = None
        if not self._watch.answered(admin_client(self._settings), 5.0) or self._renewals == _RENEWALS:
            raise failure
        self._broken = self._broken or "nothing is acknowledged in time"

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure


def _is_fatal(error: ClientError) -> bool:
    """Whether the client, not the record, is at fault."""
    return error.fatal() or error.code() in (ClientError._FATAL, ClientError.OUT_OF_ORDER_SEQUENCE_NUMBER)
