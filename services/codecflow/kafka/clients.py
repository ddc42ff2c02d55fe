"""librdkafka clients as CodecFlow needs them: one factory each, the guarantees set here and nowhere else."""

from __future__ import annotations

import logging
import time
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import KafkaError as ClientError
from confluent_kafka.admin import AdminClient

from .failures import BrokersGoneError, BrokerUnreachableError, config_error
from .settings import KafkaSettings

Client = TypeVar("Client", Producer, Consumer, AdminClient)

TRANSACTION_TIMEOUT_MS = 15_000
"""A transaction is only opened once all of its records are computed, so an open one means a dead worker: readers and the
worker that takes over wait no longer than this for it."""

LARGEST_RECORD_BYTES = 100_000_000
"""The client's own limit lies out of the way (at the broker's default limit of a request): topics decide."""

# Not _SSL: a handshake also breaks with a broker that is just starting or stopping.
_REFUSALS = frozenset({ClientError._AUTHENTICATION, ClientError.SASL_AUTHENTICATION_FAILED})

_logger = logging.getLogger("codecflow.librdkafka")
_logger.addHandler(logging.NullHandler())


class _QuietLog:
    """Takes librdkafka's log lines, whatever their level, as debug lines without secrets: what matters reaches the user
    as an error that says what to do."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    def log(self, level: int, message: str, *values: object) -> None:
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug("%s", self._settings.scrub(message % values))


class BrokerWatch:
    """Tells a passing fault from brokers that are gone for good, for one client.

    Its `on_error` is the client's error_cb. The service's loop calls `check` between two pieces of work. `last_error`: what
    librdkafka said last; `refused`: whether that was about who we are, so that waiting does not help.
    """

    PROBE_EVERY_S = 5.0

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._down_since: float | None = None
        self._next_probe = 0.0
        self.last_error = ""
        self.refused = False

    def on_error(self, error: ClientError) -> None:
        if error.code() == ClientError._ALL_BROKERS_DOWN:
            self._down_since = self._down_since or time.monotonic()
        else:
            self.last_error = self._settings.scrub(error.str())
            self.refused = error.code() in _REFUSALS

    def check(self, client: Producer | Consumer | AdminClient) -> None:
        """Raises BrokersGoneError when none has answered for `gone_after_s`. Blocks (1 s at most) only while none does."""
        now = time.monotonic()
        if self._down_since is None or now < self._next_probe:
            return
        self._next_probe = now + self.PROBE_EVERY_S
        try:
            # librdkafka reports brokers going, never their coming back.
            client.list_topics("", timeout=1.0)
        except KafkaException as error:
            gone_s = time.monotonic() - self._down_since
            if gone_s > self._settings.gone_after_s:
                raise BrokersGoneError(
                    f"Kafka at {self._settings.bootstrap_servers}: no broker has answered for {gone_s:.0f} s"
                    f"{_because(self.last_error)}; giving up"
                ) from error
        else:
            self._down_since = None


def producer(settings: KafkaSettings, watch: BrokerWatch | None = None, **properties: Any) -> Producer:
    """Idempotent, acknowledged by all replicas in sync, compressed, partitioned by murmur2 as JVM clients do."""
    return _client(Producer, settings, watch, {**_producing(settings), **properties})


def transactional_producer(
    settings: KafkaSettings, transactional_id: str, watch: BrokerWatch | None = None
) -> Producer:
    """A producer for `TransactionalEmitter`; fences every earlier one of the same id once initialised."""
    properties = _producing(settings)
    del properties["message.timeout.ms"]  # librdkafka ties it to the transaction's
    properties |= {"transactional.id": transactional_id, "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS}
    return _client(Producer, settings, watch, properties)


def consumer(settings: KafkaSettings, group: str, watch: BrokerWatch | None = None, **properties: Any) -> Consumer:
    """Sees committed records only; never commits by itself; begins at the oldest record where `group` has no offsets."""
    own = {
        "group.id": group,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "fetch.message.max.bytes": 8 << 20,
    }
    return _client(Consumer, settings, watch, {**own, **properties})


def admin_client(settings: KafkaSettings, watch: BrokerWatch | None = None) -> AdminClient:
    return _client(AdminClient, settings, watch, {})


def require_broker(settings: KafkaSettings) -> AdminClient:
    """An admin client that has had an answer. Raises BrokerUnreachableError within `reach_within_s` otherwise."""
    watch = BrokerWatch(settings)
    client = admin_client(settings, watch)
    deadline = time.monotonic() + settings.reach_within_s
    while True:
        left_s = deadline - time.monotonic()
        try:
            client.list_topics("", timeout=max(0.1, min(left_s, 1.0)))
            return client
        except KafkaException as error:
            client.poll(0)  # serves the error callback, which knows more than "timed out"
            if watch.refused:
                raise BrokerUnreachableError(
                    f"Kafka at {settings.bootstrap_servers}: {watch.last_error}; check the security properties "
                    f"(--kafka-config, -X)"
                ) from error
            if left_s < 1.0:
                raise BrokerUnreachableError(
                    f"Kafka at {settings.bootstrap_servers}: no answer within {settings.reach_within_s:g} s"
                    f"{_because(watch.last_error)}; is it running, and is --bootstrap-servers right?"
                ) from error


def _producing(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "compression.type": "zstd",
        "linger.ms": 50,
        "message.max.bytes": LARGEST_RECORD_BYTES,
        "message.timeout.ms": int(settings.gone_after_s * 1000),
        "queue.buffering.max.kbytes": 65_536,
    }


def _client(kind: type[Client], settings: KafkaSettings, watch: BrokerWatch | None, own: dict[str, Any]) -> Client:
    """Order of precedence: pass-through properties may tune what `own` sets; `settings` refuses those that must stay."""
    config = {"bootstrap.servers": settings.bootstrap_servers, **own, **settings.properties}
    config["logger"] = _QuietLog(settings)
    # Without a callback librdkafka's errors go nowhere; those that last surface where a result is waited for.
    config["error_cb"] = (watch or BrokerWatch(settings)).on_error
    try:
        return kind(config)
    except KafkaException as error:
        raise config_error(error, settings) from error


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""
