"""The topics of the wire: their names, what is kept of them, how to make them and how to check them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, murmur2
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # named in no __all__
    AdminClient,
    ConfigResource,
    NewTopic,
    TopicMetadata,
)

from .clients import require_broker
from .failures import BrokerUnreachableError, TopicsError, client_error
from .settings import KafkaSettings

DEFAULT_PARTITIONS = 8
LARGEST_PICTURE_BYTES = 8 << 20
"""`max.message.bytes` of codecflow.packets: a keyframe of a 4K camera at high quality has 1 to 3 MB."""

_HOUR_MS = 3_600_000
_REQUEST_S = 30.0

# Pictures are of use until their windows are answered, and for looking back a little; a segment is the grain of deletion.
_PICTURES = {
    "cleanup.policy": "delete",
    "retention.ms": str(6 * _HOUR_MS),
    "retention.bytes": str(16 << 30),
    "segment.bytes": str(128 << 20),
}
_NEWEST = {"cleanup.policy": "compact", "segment.bytes": str(16 << 20), "min.cleanable.dirty.ratio": "0.1"}
_WEEK = {"cleanup.policy": "delete", "retention.ms": str(7 * 24 * _HOUR_MS)}

CONFIGS: Mapping[str, Mapping[str, str]] = {
    "packets": {**_PICTURES, "max.message.bytes": str(LARGEST_PICTURE_BYTES)},
    "metadata": _PICTURES,
    "results": _WEEK,
    "masks": {"cleanup.policy": "delete", "retention.ms": _PICTURES["retention.ms"]},
    "streams": _NEWEST,
    "state": _NEWEST,
    "dead-letter": _WEEK,
}
"""Topic configurations by name without prefix. What is not said is the broker's default."""

CO_PARTITIONED = ("packets", "metadata", "state")
"""One worker owns the same partition of all three, so their partition counts are equal."""


def partition_of(stream: str, partitions: int) -> int:
    """The partition of `stream` in a topic of `partitions`, by the default rule of JVM clients."""
    return murmur2(stream.encode(), partitions)


def create_topics(settings: KafkaSettings, partitions: int = DEFAULT_PARTITIONS, replication: int = 1) -> list[str]:
    """Create those topics that are missing; their names, once they can be used. Raises KafkaError."""
    client = require_broker(settings)
    found = _found(client, settings)
    # A record then survives the loss of a broker, and the loss of one does not stop the others.
    safety = {"min.insync.replicas": "2"} if replication >= 3 else {}
    asked = [
        NewTopic(topic, partitions, replication, config={**CONFIGS[name], **safety})
        for name, topic in _names(settings).items()
        if topic not in found
    ]
    created = []
    for topic, done in (client.create_topics(asked) if asked else {}).items():
        try:
            _result(done)
        except KafkaException as error:
            reason = client_error(error)
            if reason.code() != ClientError.TOPIC_ALREADY_EXISTS:  # somebody else was quicker: as well
                raise TopicsError(f"topic {topic}: cannot be created: {reason.str()}") from error
        else:
            created.append(topic)
    _wait_for_leaders(client, settings, [topic.topic for topic in asked])
    return created


def check_topics(settings: KafkaSettings) -> int:
    """The partition count of packets, metadata and state, once all topics are as they must be.

    Raises BrokerUnreachableError, or TopicsError with every fault in one line.
    """
    client = require_broker(settings)
    found = _found(client, settings)
    names = _names(settings)
    missing = [topic for topic in names.values() if topic not in found]
    if missing:
        raise TopicsError(
            f"missing topic{'s' if len(missing) > 1 else ''} {', '.join(missing)} at {settings.bootstrap_servers}: "
            f"run: codecflow topics create"
        )
    counts = {name: len(found[names[name]].partitions) for name in CO_PARTITIONED}
    faults = []
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{names[name]} has {count}" for name, count in counts.items())
        faults.append(f"partition counts must be equal: {each}")
    configs = _configs(client, list(names.values()))
    for name, topic in names.items():
        policy, needed = configs.get(topic, {}).get("cleanup.policy"), CONFIGS[name]["cleanup.policy"]
        if policy is not None and policy != needed:
            faults.append(f"{topic}: cleanup.policy must be {needed}, not {policy}")
    if faults:
        raise TopicsError(f"topics at {settings.bootstrap_servers}: {'; '.join(faults)}")
    return counts["packets"]


def largest_record_bytes(settings: KafkaSettings, topic: str) -> int:
    """`max.message.bytes` of `topic`; Kafka's own default of 1 MiB where this user may not ask. Raises KafkaError."""
    config = _configs(require_broker(settings), [topic]).get(topic, {})
    return int(config.get("max.message.bytes", 1 << 20))


def _names(settings: KafkaSettings) -> dict[str, str]:
    """Full names by names without prefix."""
    return {name: f"{settings.topic_prefix}.{name}" for name in CONFIGS}


def _found(client: AdminClient, settings: KafkaSettings) -> dict[str, TopicMetadata]:
    """Every topic that this user may see."""
    try:
        return client.list_topics(timeout=_REQUEST_S).topics
    except KafkaException as error:
        reason = settings.scrub(client_error(error).str())
        raise BrokerUnreachableError(f"Kafka at {settings.bootstrap_servers}: no list of topics ({reason})") from error


def _wait_for_leaders(client: AdminClient, settings: KafkaSettings, topics: Sequence[str]) -> None:
    """A topic exists for its controller a moment before the brokers know of it and lead its partitions."""
    deadline = time.monotonic() + _REQUEST_S
    while topics:
        found = _found(client, settings)
        topics = [
            topic
            for topic in topics
            if topic not in found or any(partition.leader < 0 for partition in found[topic].partitions.values())
        ]
        if topics and time.monotonic() > deadline:
            raise TopicsError(f"topic {topics[0]}: exists, but without a leader for {_REQUEST_S:.0f} s")
        time.sleep(0.05)


def _configs(client: AdminClient, topics: Sequence[str]) -> dict[str, dict[str, str]]:
    """Configurations by topic; without topics whose configuration this user may not ask for."""
    found = {}
    for resource, done in client.describe_configs([ConfigResource("topic", topic) for topic in topics]).items():
        try:
            entries = _result(done)
        except KafkaException as error:
            if client_error(error).code() == ClientError.TOPIC_AUTHORIZATION_FAILED:
                continue
            raise TopicsError(f"topic {resource.name}: cannot be described: {client_error(error).str()}") from error
        found[resource.name] = {name: str(entry.value) for name, entry in entries.items()}
    return found


def _result(done: Future[Any]) -> Any:
    try:
        return done.result(timeout=_REQUEST_S)
    except TimeoutError as error:
        raise TopicsError(f"no answer about topics within {_REQUEST_S:.0f} s") from error
