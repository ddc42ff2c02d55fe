"""Sending records outside transactions: in order, each once, with the brokers' pace as the limit."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, Message

from codecflow.errors import KafkaError

from .clients import BrokerWatch, producer
from .failures import DeliveryError, client_error
from .records import Record, Report, delivery_failure, hand_over
from .settings import KafkaSettings


class RecordSender:
    """An idempotent producer that tells of the first record that failed, at the next call.

    Not for use from several threads. `properties` are librdkafka's, for this sender alone.
    """

    def __init__(self, settings: KafkaSettings, **properties: Any) -> None:
        self._settings = settings
        self._watch = BrokerWatch(settings)
        self._producer = producer(settings, self._watch, **properties)
        self._failure: KafkaError | None = None

    def __enter__(self) -> RecordSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush, unless an error is on its way: then only what is acknowledged within a moment is worth waiting for."""
        if kind is None:
            self.flush()
        else:
            self._producer.flush(1.0)

    def send(self, record: Record) -> None:
        """Queue `record`; it leaves within librdkafka's linger.ms. Blocks while the queue is full.

        Raises the failure of an earlier record (RecordTooLargeError, DeliveryError, BrokersGoneError), once.
        """
        self._raise_failure()
        while not self._queued(record):
            # A full queue is flow control: the brokers are slower than the source just now.
            self.poll(0.1)
        self._producer.poll(0)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports for up to `timeout_s` seconds. To be called when nothing has been sent for a while.

        Raises as `send` does.
        """
        self._producer.poll(timeout_s)
        self._raise_failure()
        self._watch.check(self._producer)

    def flush(self, within_s: float | None = None) -> None:
        """Return once every record is acknowledged, however long it takes where `within_s` is None.

        Raises as `send` does; DeliveryError when `within_s` seconds were not enough.
        """
        deadline = None if within_s is None else time.monotonic() + within_s
        while self._producer.flush(0.5):
            self.poll()
            if deadline is not None and time.monotonic() > deadline:
                raise DeliveryError(f"{len(self._producer)} records are not acknowledged after {within_s:g} s")
        self._raise_failure()

    @property
    def unacknowledged(self) -> int:
        """Records sent that no broker has acknowledged yet."""
        return len(self._producer)

    def _queued(self, record: Record) -> bool:
        try:
            hand_over(record, self._producer, self._on_delivery(record))
        except BufferError:
            return False
        except KafkaException as error:
            raise delivery_failure(record, client_error(error), self._settings) from error
        return True

    def _on_delivery(self, record: Record) -> Report:
        def report(error: ClientError | None, message: Message) -> None:
            if error is not None and self._failure is None:
                self._failure = delivery_failure(record, error, self._settings)

        return report

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
