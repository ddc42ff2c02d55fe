"""How long a service keeps trying while brokers are down."""

from __future__ import annotations

import time
from collections.abc import Callable

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from .clients import STOP_WITHIN_S, BrokerWatch
from .failures import BrokersGoneError
from .settings import KafkaSettings

_STOP_ANSWERED_S = 30.0


class RetryDeadline:
    """The time limit of one piece of work: `give_up_after_s` seconds, and the same again if a broker answers by then, since
    it may have just come back. Once `stopping()` is true, `STOP_WITHIN_S` seconds from then, and 30 more if one answers.

    Call `begin` before the work; `check` raises BrokersGoneError, with the known cause, when it has taken too long.
    """

    def __init__(self, settings: KafkaSettings, watch: BrokerWatch, stopping: Callable[[], bool]) -> None:
        self._settings, self._watch, self._stopping = settings, watch, stopping
        self.begin()

    def begin(self) -> None:
        self._began = time.monotonic()
        self._until = self._began + self._settings.give_up_after_s
        self._extended = False
        self._stop_until: float | None = None

    def check(self, client: Producer | Consumer | AdminClient, what: str, last_error: str = "") -> None:
        """`what` is not done yet: "the transaction was not committed". `last_error`: used if no cause is known."""
        now = time.monotonic()
        if self._stopping() and self._stop_until is None:
            self._stop_until = now + min(STOP_WITHIN_S, self._settings.give_up_after_s)
        until = self._until if self._stop_until is None else min(self._until, self._stop_until)
        if now < until:
            return
        if not self._extended and self._watch.answered(client):
            self._extended = True
            self._until = now + self._settings.give_up_after_s
            if self._stop_until is not None:
                self._stop_until = now + min(_STOP_ANSWERED_S, self._settings.give_up_after_s)
            return
        why = "stopping" if self._stopping() else "giving up"
        because = self._watch.because or (last_error and f" ({self._settings.scrub(last_error)})")
        raise BrokersGoneError(
            f"Kafka at {self._settings.bootstrap_servers}: {what} for {now - self._began:.0f} s{because}; {why}"
        )
