"""librdkafka clients, one factory each; their guarantees are set here and nowhere else."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import KafkaError as ClientError
from confluent_kafka.admin import AdminClient

from codecflow.errors import ConfigError

from .failures import BrokersGoneError, BrokerUnreachableError, config_error
from .settings import KafkaSettings

Client = TypeVar("Client", Producer, Consumer, AdminClient)

TRANSACTION_TIMEOUT_MS = 15_000
"""A transaction is only opened once all of its records are computed, so an open one means a dead worker: readers and the
successor wait at most this long for it."""

LARGEST_RECORD_BYTES = 100_000_000
"""The client's own limit is out of the way (at the broker's default limit of a request): topics decide."""

STOP_WITHIN_S = 8.0
"""How long a stopping service waits for brokers that do not answer. Including a last check whether one does, and a second or
two to close clients, it ends within about 10 s."""

_SILENT_MS = 10_000
"""A connection or request without an answer for this long is dropped and made again: a half-open connection, or a broker
that hangs, must not outlast the session and the transaction of a worker (15 s each)."""

# Not _SSL: a handshake also fails with a broker that is just starting or stopping.
_REFUSALS = frozenset({ClientError._AUTHENTICATION, ClientError.SASL_AUTHENTICATION_FAILED})
# From the most to the least specific: people must see the root cause.
_CAUSES = (*_REFUSALS, ClientError._SSL, ClientError._RESOLVE, ClientError._TRANSPORT, None)
_HUNG_UP = _CAUSES.index(None)
_HUNG_UP_ERROR = re.compile(r"(Send|Receive) failed: (Broken pipe|Connection reset)|: Disconnected")
_HUNG_UP_LINE = re.compile(r"Disconnected.*\(after \d{1,3}ms in state (APIVERSION_QUERY|AUTH|UP)", re.DOTALL)
_NOT_CONNECTED_LINE = re.compile(r"Connect to \S+ failed: [^(]+")
_DETAILS = re.compile(r" \(after \d+ms in state \w+(, \d+ identical error\(s\) suppressed)?\)")
_CAUSE_S = 60.0

_logger = logging.getLogger("codecflow.librdkafka")
_logger.addHandler(logging.NullHandler())


class _QuietLog:
    """Logs librdkafka's lines, of any level, as debug lines without secrets: what matters reaches the user as an error that
    says what to do."""

    def __init__(self, settings: KafkaSettings, watch: BrokerWatch) -> None:
        self._settings, self._watch = settings, watch

    def log(self, level: int, message: str, *values: object) -> None:
        text = message % values
        self._watch.on_log(text)
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug("%s", self._settings.scrub(text))


class BrokerWatch:
    """Distinguishes a temporary fault from brokers that are down for good, for one client.

    Its `on_error` is the client's error_cb. The service's loop calls `check` between two pieces of work. `cause`: the most
    specific error that librdkafka has reported within the last minute, such as a refused password rather than the resulting
    time-outs; `refused`: whether it is about authentication, so that waiting does not help.
    """

    PROBE_EVERY_S = 5.0

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._down_since: float | None = None
        self._next_probe = 0.0
        self._cause: tuple[int, float, str] | None = None  # rank, when, what

    @property
    def cause(self) -> str:
        return "" if self._cause is None else self._cause[2]

    @property
    def refused(self) -> bool:
        return self._cause is not None and self._cause[0] < len(_REFUSALS)

    @property
    def down(self) -> bool:
        """Whether the client has lost every broker, and none has answered since."""
        return self._down_since is not None

    @property
    def advice(self) -> str:
        """What to check if no broker has ever answered."""
        rank = None if self._cause is None else self._cause[0]
        if rank == _HUNG_UP:  # at the start it speaks another protocol
            protocol = self._settings.properties.get("security.protocol", "plaintext")
            return f"is security.protocol={protocol} right? check the security properties (--kafka-config, -X)"
        if rank == _CAUSES.index(ClientError._SSL):
            return (
                "check the security properties (--kafka-config, -X), and that its certificate is valid and of this host"
            )
        if rank is not None and rank < len(_REFUSALS):
            return "check the security properties (--kafka-config, -X)"
        return "is it running, and is --bootstrap-servers right?"

    @property
    def because(self) -> str:
        """The cause for use in a message: a blank and parentheses, or nothing."""
        return f" ({self.cause})" if self.cause else ""

    def on_error(self, error: ClientError) -> None:
        now = time.monotonic()
        if error.code() == ClientError._ALL_BROKERS_DOWN:
            self._down_since = self._down_since or now
            return
        rank = _CAUSES.index(error.code()) if error.code() in _CAUSES else len(_CAUSES)
        if error.code() == ClientError._TRANSPORT and _HUNG_UP_ERROR.search(error.str()):
            rank = _HUNG_UP
        self._note(rank, self._settings.scrub(error.str()))

    def on_log(self, line: str) -> None:
        """Handles a line of librdkafka's log: it repeats errors, but a broker that hangs up is reported only there."""
        if found := _NOT_CONNECTED_LINE.search(line):
            self._note(_CAUSES.index(ClientError._TRANSPORT), self._settings.scrub(found[0].strip()))
        elif _HUNG_UP_LINE.search(line):
            self._note(_HUNG_UP, "the broker ends every connection at once")

    def _note(self, rank: int, text: str) -> None:
        now = time.monotonic()
        if self._cause is None or rank <= self._cause[0] or now > self._cause[1] + _CAUSE_S:
            self._cause = (rank, now, _DETAILS.sub("", text))

    def answered(self, client: Producer | Consumer | AdminClient, within_s: float = 1.0) -> bool:
        """Whether a broker answers now. Blocks for at most `within_s` seconds."""
        try:
            client.list_topics("", timeout=within_s)
        except KafkaException:
            return False
        self._down_since = self._cause = None
        return True

    def check(self, client: Producer | Consumer | AdminClient) -> None:
        """Raises BrokersGoneError when none has answered for `give_up_after_s`. Blocks (1 s at most) only while none
        does."""
        now = time.monotonic()
        if self._down_since is None or now < self._next_probe:
            return
        self._next_probe = now + self.PROBE_EVERY_S
        down_since = self._down_since
        # librdkafka reports when brokers go down, never when they come back.
        if not self.answered(client) and (gone_s := time.monotonic() - down_since) > self._settings.give_up_after_s:
            raise BrokersGoneError(
                f"Kafka at {self._settings.bootstrap_servers}: no broker has answered for {gone_s:.0f} s{self.because}; "
                f"giving up"
            )


def producer(settings: KafkaSettings, watch: BrokerWatch | None = None, **properties: Any) -> Producer:
    """Idempotent, acks=all, compressed, partitioned by murmur2 like JVM clients."""
    return _client(Producer, settings, watch, {**_producing(settings), **properties})


def transactional_producer(
    settings: KafkaSettings, transactional_id: str, watch: BrokerWatch | None = None
) -> Producer:
    """A producer for `TransactionalEmitter`; fences every earlier one of the same id once initialised."""
    properties = _producing(settings)
    del properties["message.timeout.ms"]  # librdkafka ties it to the transaction's
    timeout = settings.properties.get("transaction.timeout.ms", "")
    timeout_ms = int(timeout) if timeout.isdecimal() else TRANSACTION_TIMEOUT_MS
    properties |= {
        "transactional.id": transactional_id,
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        "socket.timeout.ms": min(_SILENT_MS, timeout_ms),  # librdkafka rejects a longer one
        # Reconnect to the brokers that are known. By default librdkafka (2.10 and later) forgets them all once none is
        # connected, and with them the coordinators: after one reset of all connections, a transaction never returns
        # (librdkafka issue 5511). Consumers find their coordinator again.
        "metadata.recovery.strategy": "none",
    }
    return _client(Producer, settings, watch, properties)


def consumer(settings: KafkaSettings, group: str, watch: BrokerWatch | None = None, **properties: Any) -> Consumer:
    """Reads committed records only; never auto-commits; starts at the oldest record if `group` has no offsets."""
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


def require_broker(settings: KafkaSettings, stopping: Callable[[], bool] = lambda: False) -> AdminClient:
    """An admin client that has had an answer. Otherwise raises BrokerUnreachableError within `reach_within_s`, sooner if
    waiting does not help; after `STOP_WITHIN_S` seconds if `stopping()` is true."""
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
                    f"Kafka at {settings.bootstrap_servers}: {watch.cause}; {watch.advice}"
                ) from error
            waited_s = settings.reach_within_s - left_s
            if left_s < 1.0 or (waited_s > STOP_WITHIN_S and stopping()):
                raise BrokerUnreachableError(
                    f"Kafka at {settings.bootstrap_servers}: no answer within "
                    f"{min(waited_s + 1.0, settings.reach_within_s):.3g} s{watch.because}; {watch.advice}"
                ) from error


def refresh_leaders(client: Producer | Consumer | AdminClient, topics: Iterable[str]) -> None:
    """Request which brokers lead the partitions of topics, before a request about offsets is repeated.

    librdkafka (2.16) does that by itself after most errors, but not after FENCED_LEADER_EPOCH: once a partition has moved to
    another broker and back, as after each restart of a broker, a client would ask the former leader for good.
    """
    for topic in topics:
        with suppress(KafkaException):
            client.list_topics(topic, timeout=1.0)


def _producing(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "compression.type": "zstd",
        "linger.ms": 50,
        "message.max.bytes": LARGEST_RECORD_BYTES,
        "message.timeout.ms": int(settings.give_up_after_s * 1000),
        "queue.buffering.max.kbytes": 65_536,
    }


_CONNECTING: dict[str, Any] = {
    "socket.timeout.ms": _SILENT_MS,
    "socket.connection.setup.timeout.ms": _SILENT_MS,
    "socket.keepalive.enable": True,
    "reconnect.backoff.max.ms": 2_000,
}
_FILES = (
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.crl.location",
    "ssl.key.location",
    "ssl.keystore.location",
)


def _client(kind: type[Client], settings: KafkaSettings, watch: BrokerWatch | None, own: dict[str, Any]) -> Client:
    """Order of precedence: pass-through properties may tune what `own` sets; `settings` refuses those that must stay."""
    for name in _FILES:
        _require_file(name, settings.properties.get(name, ""))
    watch = watch or BrokerWatch(settings)
    config = {"bootstrap.servers": settings.bootstrap_servers, **_CONNECTING, **own, **settings.properties}
    config["logger"] = _QuietLog(settings, watch)
    # Without a callback librdkafka's errors are lost; persistent ones surface where a result is waited for.
    config["error_cb"] = watch.on_error
    try:
        return kind(config)
    except KafkaException as error:
        raise config_error(error, settings) from error


def _require_file(name: str, value: str) -> None:
    """librdkafka's own error about a missing file is about X.509."""
    if not value or (name == "ssl.ca.location" and value == "probe"):
        return
    try:
        if not Path(value).is_dir():
            Path(value).open("rb").close()
    except OSError as error:
        raise ConfigError(f"Kafka property {name}: {value}: {(error.strerror or 'cannot be read').lower()}") from error
