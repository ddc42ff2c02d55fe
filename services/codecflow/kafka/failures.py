"""Failures of Kafka, one type each, and the conversion of librdkafka's errors to them."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException

from codecflow.errors import ConfigError, KafkaError

from .settings import KafkaSettings


class BrokerUnreachableError(KafkaError):
    """No broker answered when a command started."""


class BrokersGoneError(KafkaError):
    """The brokers have been down for so long that the service gives up; an orchestrator restarts it."""


class TopicsError(KafkaError):
    """A topic is missing or violates the wire contract."""


class DeliveryError(KafkaError):
    """A record that the brokers did not accept. `topic`: its topic, if it is known."""

    def __init__(self, message: str, topic: str = "") -> None:
        super().__init__(message)
        self.topic = topic


class RecordTooLargeError(DeliveryError):
    """A record larger than its topic allows."""


class TransactionAbortedError(KafkaError):
    """Nothing of this transaction will ever be visible. The same emitter may send the same work again."""


class FencedError(KafkaError):
    """Another worker has taken over these partitions: nothing of this transaction will ever be visible, and the work must be
    dropped, not sent again."""


def serve(call: Callable[[], int]) -> int:
    """The result of a client's `poll` or `flush`. Raises KafkaException.

    confluent-kafka (2.16) raises a client's fatal errors from whatever serves its callbacks next, and leaves the exception
    set while it continues with delivery reports: whatever these call may then fail with a SystemError.
    """
    try:
        return call()
    except SystemError as error:
        cause = error.__cause__
        if isinstance(cause, KafkaException):
            raise cause from error
        raise KafkaException(ClientError(ClientError._FATAL, str(error), True)) from error


_RETRIABLE = frozenset(
    {
        ClientError.NOT_LEADER_FOR_PARTITION,
        ClientError.LEADER_NOT_AVAILABLE,
        ClientError.FENCED_LEADER_EPOCH,
        ClientError.UNKNOWN_LEADER_EPOCH,
        ClientError.REPLICA_NOT_AVAILABLE,
        ClientError.OFFSET_NOT_AVAILABLE,
        ClientError.KAFKA_STORAGE_ERROR,
        ClientError.NOT_COORDINATOR,
        ClientError.COORDINATOR_NOT_AVAILABLE,
        ClientError.COORDINATOR_LOAD_IN_PROGRESS,
        ClientError.REQUEST_TIMED_OUT,
        ClientError._TIMED_OUT,
        ClientError._TRANSPORT,
        ClientError._WAIT_COORD,
    }
)


def is_retriable(error: ClientError) -> bool:
    """Whether retrying may help: a broker is starting, or has taken over a partition or a group. librdkafka calls few of
    these retriable."""
    return bool(error.retriable()) or error.code() in _RETRIABLE


def client_error(exception: KafkaException) -> ClientError:
    """librdkafka's own error inside its exception."""
    error = exception.args[0]
    return error if isinstance(error, ClientError) else ClientError(ClientError._FAIL, str(error))


_DENIED = {
    ClientError.TOPIC_AUTHORIZATION_FAILED: ("topic", ""),
    ClientError.GROUP_AUTHORIZATION_FAILED: ("group", "Read"),
    ClientError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: ("transactional id", "Write"),
    ClientError.CLUSTER_AUTHORIZATION_FAILED: ("the cluster", "IdempotentWrite"),
}


def reason(error: ClientError, settings: KafkaSettings, operation: str, name: str) -> str:
    """A broker's error, without secrets; if it refused for lack of rights, with the required right. `operation`: the ACL
    operation on a topic that was tried; `name`: of the topic, group or transactional id."""
    text = settings.scrub(error.str())
    if error.code() not in _DENIED:
        return text
    kind, needed = _DENIED[error.code()]
    resource = kind if kind == "the cluster" else f"{kind} {name}"
    return f"{text}: this user needs the right (ACL) {needed or operation} on {resource}"


def config_error(exception: KafkaException, settings: KafkaSettings) -> ConfigError:
    """A client that could not be created: nearly always an unknown or impossible property."""
    return ConfigError(f"Kafka client settings: {settings.scrub(client_error(exception).str())}")
