"""The topics of the wire: names, retention, creation and checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, TopicPartition, murmur2
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # named in no __all__
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    TopicMetadata,
)

from .clients import require_broker
from .failures import BrokerUnreachableError, TopicsError, client_error, is_retriable
from .failures import reason as why
from .records import BATCH_BYTES
from .settings import KafkaSettings

T = TypeVar("T")

DEFAULT_PARTITIONS = 8
LARGEST_PICTURE_BYTES = 8 << 20
"""`max.message.bytes` of codecflow.packets: a keyframe of a 4K camera at high quality has 1 to 3 MB."""

_HOUR_MS = 3_600_000
_REQUEST_S = 30.0
# By error: how long it may last before it counts. Brokers of a cluster start one after the other.
_AGAIN_WITHIN_S: Mapping[int, float] = {
    ClientError.REQUEST_TIMED_OUT: _REQUEST_S,
    ClientError.NOT_CONTROLLER: _REQUEST_S,
    ClientError._TIMED_OUT: _REQUEST_S,
    ClientError._TRANSPORT: _REQUEST_S,
    ClientError.INVALID_REPLICATION_FACTOR: 3.0,
}
_KNOWN_WITHIN_S = 3.0
"""How long the brokers of a cluster may take to learn of a topic that one of them has created."""

# Pictures are needed until their windows are answered, and briefly afterwards; a segment is the unit of deletion.
_PICTURES = {
    "cleanup.policy": "delete",
    "retention.ms": str(6 * _HOUR_MS),
    "retention.bytes": str(16 << 30),
    "segment.bytes": str(128 << 20),
    # The broker's clock: a camera host with a wrong clock must not decide when its pictures are deleted, and readers use it
    # to decide which epochs are in the future.
    "message.timestamp.type": "LogAppendTime",
}
_NEWEST = {
    "cleanup.policy": "compact",
    "segment.bytes": str(16 << 20),
    "min.cleanable.dirty.ratio": "0.1",
    "message.timestamp.type": "LogAppendTime",
}
_WEEK = {"cleanup.policy": "delete", "retention.ms": str(7 * 24 * _HOUR_MS)}

CONFIGS: Mapping[str, Mapping[str, str]] = {
    "packets": {**_PICTURES, "max.message.bytes": str(LARGEST_PICTURE_BYTES)},
    "metadata": _PICTURES,
    "results": _WEEK,
    "masks": {"cleanup.policy": "delete", "retention.ms": _PICTURES["retention.ms"]},
    "events": {"cleanup.policy": "delete", "retention.ms": str(30 * 24 * _HOUR_MS)},
    "streams": _NEWEST,
    "state": _NEWEST,
    "dead-letter": _WEEK,
}
"""Topic configurations by name without prefix. Unlisted settings are the broker's defaults."""

CO_PARTITIONED = ("packets", "metadata", "state")
"""One worker owns the same partition of all three, so their partition counts are equal."""


def partition_of(stream: str, partitions: int) -> int:
    """The partition of `stream` in a topic with `partitions` partitions, by the default rule of JVM clients."""
    return murmur2(stream.encode(), partitions)


def misplaced(stream: str, partition: int | None, partitions: int) -> str | None:
    """Why a record of `stream` is wrong in `partition`: None if it is right there, in a topic of `partitions`. Readers of
    different partitions would treat a stream in two of them differently."""
    home = partition_of(stream, partitions)
    return None if partition == home else f"wrong partition, expected {home}: publish with partitioner murmur2"


def create_topics(settings: KafkaSettings, partitions: int = DEFAULT_PARTITIONS, replication: int = 1) -> list[str]:
    """Create missing topics; returns their names once they are usable. Raises KafkaError."""
    client = require_broker(settings)
    found = _found(client, settings)
    # A record then survives the loss of one broker, and that loss does not stop the others.
    safety = {"min.insync.replicas": "2"} if replication >= 3 else {}
    wanted = [
        NewTopic(topic, partitions, replication, config={**CONFIGS[name], **safety})
        for name, topic in _names(settings).items()
        if topic not in found
    ]
    created = []
    began = time.monotonic()
    waiting = wanted
    while waiting:
        again = []
        answers = client.create_topics(waiting)
        for topic in waiting:
            try:
                _result(answers[topic.topic])
            except KafkaException as error:
                reason = client_error(error)
                if time.monotonic() < began + _AGAIN_WITHIN_S.get(reason.code(), 0.0):
                    again.append(topic)
                elif reason.code() != ClientError.TOPIC_ALREADY_EXISTS:  # another process was faster, which is fine
                    cause = why(reason, settings, "Create", topic.topic)
                    raise TopicsError(f"topic {topic.topic}: cannot be created: {cause}") from error
            else:
                created.append(topic.topic)
        waiting = again
        time.sleep(0.5 if again else 0.0)
    _wait_until_known(client, settings, [topic.topic for topic in wanted])
    return created


def check_topics(settings: KafkaSettings) -> int:
    """The partition count of packets, metadata and state, once all topics are configured correctly.

    Raises BrokerUnreachableError, or TopicsError with every fault in one line.
    """
    client = require_broker(settings)
    names = _names(settings)
    deadline = time.monotonic() + _KNOWN_WITHIN_S
    while True:
        found = _found(client, settings)
        missing = [topic for topic in names.values() if topic not in found]
        # If only some topics exist, they may just have been created, and this broker may not know all of them yet.
        if not missing or len(missing) == len(names) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if missing:
        _require_sight(client, settings, missing[0])
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
        largest = int(configs.get(topic, {}).get("max.message.bytes", BATCH_BYTES))
        if largest < BATCH_BYTES and name != "packets":  # producers limit themselves to what that one takes
            faults.append(f"{topic}: max.message.bytes must be at least {BATCH_BYTES}, not {largest}")
    if faults:
        raise TopicsError(f"topics at {settings.bootstrap_servers}: {'; '.join(faults)}")
    return counts["packets"]


def check_retention(settings: KafkaSettings, window_s: float) -> None:
    """Checks that packets and metadata are kept for two windows of `window_s` seconds: one that is open, and one that a
    successor rebuilds. Uses the topics' settings and, since a limit in bytes implies no duration, the time span actually
    retained. Raises TopicsError with every fault in one line.
    """
    client = require_broker(settings)
    topics = {name: f"{settings.topic_prefix}.{name}" for name in ("packets", "metadata")}
    needed_ms = int(2_000 * window_s)
    faults = []
    for topic, config in _configs(client, list(topics.values())).items():
        kept_ms = int(config.get("retention.ms", -1))
        if 0 <= kept_ms < needed_ms:
            faults.append(f"{topic}: retention.ms is {kept_ms}, two windows of {window_s:g} s need {needed_ms}")
    found = _found(client, settings)
    places = [TopicPartition(topic, number) for topic in topics.values() for number in found[topic].partitions]
    oldest = _offsets(client, places, OffsetSpec.earliest())
    before = _offsets(client, places, OffsetSpec.for_timestamp(int(time.time() * 1000) - needed_ms))
    short = [place for place, offset in oldest.items() if offset > 0 and before[place] == offset]
    if short:
        names = ", ".join(f"{topic}[{number}]" for topic, number in short[:3]) + (", ..." if len(short) > 3 else "")
        faults.append(f"{names}: older records than of the last {2 * window_s:g} s are gone: raise retention.bytes")
    if faults:
        raise TopicsError(f"topics at {settings.bootstrap_servers}: {'; '.join(faults)}")


def _offsets(client: AdminClient, places: Sequence[TopicPartition], spec: OffsetSpec) -> dict[tuple[str, int], int]:
    """By topic and partition; -1 where a partition has no such offset."""
    deadline = time.monotonic() + _REQUEST_S
    while True:
        answers = client.list_offsets(dict.fromkeys(places, spec))
        try:
            return {(place.topic, place.partition): int(_result(done).offset) for place, done in answers.items()}
        except KafkaException as error:
            reason = client_error(error)
            # A partition that was just created or is moving has no leader for a moment.
            if reason.code() == ClientError.TOPIC_AUTHORIZATION_FAILED or time.monotonic() > deadline:
                raise TopicsError(f"offsets of {places[0].topic} cannot be read: {reason.str()}") from error
        time.sleep(0.2)


def largest_record_bytes(settings: KafkaSettings, topic: str) -> int:
    """`max.message.bytes` of `topic`; Kafka's default of 1 MiB if this user may not read it. Raises KafkaError."""
    config = _configs(require_broker(settings), [topic]).get(topic, {})
    return int(config.get("max.message.bytes", 1 << 20))


def _names(settings: KafkaSettings) -> dict[str, str]:
    """Full names by names without prefix."""
    return {name: f"{settings.topic_prefix}.{name}" for name in CONFIGS}


def _found(client: AdminClient, settings: KafkaSettings) -> dict[str, TopicMetadata]:
    """Every topic visible to this user."""
    return _metadata(client, settings).topics


def _metadata(client: AdminClient, settings: KafkaSettings) -> ClusterMetadata:
    try:
        return _retried(lambda: client.list_topics(timeout=_REQUEST_S), settings.reach_within_s)
    except KafkaException as error:
        reason = settings.scrub(client_error(error).str())
        raise BrokerUnreachableError(f"Kafka at {settings.bootstrap_servers}: no list of topics ({reason})") from error


def _require_sight(client: AdminClient, settings: KafkaSettings, topic: str) -> None:
    """Raises TopicsError if this user may not know whether the topic exists."""
    try:
        error = client.list_topics(topic, timeout=_REQUEST_S).topics[topic].error
    except KafkaException:
        return
    if error is not None and error.code() == ClientError.TOPIC_AUTHORIZATION_FAILED:
        cause = why(error, settings, "Describe", topic)
        raise TopicsError(f"topic {topic}: {cause}, which Read and Write include")


def _wait_until_known(client: AdminClient, settings: KafkaSettings, topics: Sequence[str]) -> None:
    """A topic exists for its controller a moment before each broker knows it: all of them are queried, since another client
    may use any."""
    if not topics:
        return
    brokers = list(_metadata(client, settings).brokers.values())
    _wait_for_leaders(client, settings, topics)
    for broker in brokers if len(brokers) > 1 else []:
        one = replace(settings, bootstrap_servers=f"{broker.host}:{broker.port}")
        with suppress(BrokerUnreachableError):  # one that is down learns of it before it takes requests again
            _wait_for_leaders(require_broker(one), one, topics)


def _wait_for_leaders(client: AdminClient, settings: KafkaSettings, topics: Sequence[str]) -> None:
    within_s = max(_REQUEST_S, settings.reach_within_s)
    deadline = time.monotonic() + within_s
    while topics:
        found = _found(client, settings)
        topics = [
            topic
            for topic in topics
            if topic not in found or any(partition.leader < 0 for partition in found[topic].partitions.values())
        ]
        if topics and time.monotonic() > deadline:
            raise TopicsError(f"topic {topics[0]}: exists, but without a leader for {within_s:.0f} s")
        time.sleep(0.05)


def _configs(client: AdminClient, topics: Sequence[str]) -> dict[str, dict[str, str]]:
    """Configurations by topic; without topics whose configuration this user may not read."""
    resources = [ConfigResource("topic", topic) for topic in topics]

    def described() -> dict[str, dict[str, str]]:
        found = {}
        for resource, done in client.describe_configs(resources).items():
            try:
                entries = _result(done)
            except KafkaException as error:
                if client_error(error).code() != ClientError.TOPIC_AUTHORIZATION_FAILED:
                    raise
            else:
                found[resource.name] = {name: str(entry.value) for name, entry in entries.items()}
        return found

    try:
        return _retried(described, _REQUEST_S)
    except KafkaException as error:
        reason = client_error(error).str()
        raise TopicsError(f"topics {topics[0]} and others: their settings cannot be read: {reason}") from error


def _retried(request: Callable[[], T], within_s: float) -> T:
    """The answer to a request, which is repeated while a broker restarts or is cut off. Raises KafkaException."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return request()
        except KafkaException as error:
            if not is_retriable(client_error(error)) or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _result(done: Future[Any]) -> Any:
    try:
        return done.result(timeout=_REQUEST_S)
    except TimeoutError as error:
        raise TopicsError(f"no answer about topics within {_REQUEST_S:.0f} s") from error
