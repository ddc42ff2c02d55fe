"""The rights in docs/how-to/security.md are enough for each service, and without any of them one line names the missing
one."""

from __future__ import annotations

import json
import re
import shlex
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from codecflow import subscriber
from codecflow.errors import KafkaError
from codecflow.kafka.clients import admin_client
from codecflow.kafka.compacted import find_unusable, of_stream, remove
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import check_topics, create_topics
from codecflow.lifecycle import GracefulStop
from codecflow.localkafka.daemon import LocalKafka
from codecflow.localkafka.files import free_port
from codecflow.messages import EventRule, Question, encode_event
from codecflow.messages.limits import MIN_PROBABILITY
from codecflow.notify.config import read_config
from codecflow.notify.service import Notifier
from codecflow.page.access import Access
from codecflow.producer.options import ProduceOptions
from codecflow.producer.run import produce
from codecflow.recorder.evidence_store import EvidenceStore, Retention
from codecflow.recorder.service import Recorder, RecorderOptions
from codecflow.storage import open_storage
from codecflow.subscriber.fleet import Fleet
from codecflow.subscriber.history import RESULTS, History
from codecflow.subscriber.recording import Recording
from codecflow.subscriber.unusable import dead_letters
from codecflow.vlm.families import Family
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny
from tests.codec.clips import encode
from tests.notify.running import EVENT
from tests.page.conftest import serving
from tests.worker.memory import Published, encode_clip, publish
from tests.worker.running import Running, results, send, until

DOCUMENT = (Path(__file__).parents[2] / "docs" / "how-to" / "security.md").read_text()
RECIPE = [line.strip() for line in DOCUMENT.splitlines() if line.strip().startswith("kafka-acls.sh")]
USERS = ("producer", "worker", "subscriber", "operator", "viewer", "recorder", "notifier")
PREFIX = "fleet"
EVENTFUL = Question("q", "Is anything there?", "yes-no", event=EventRule("yes", MIN_PROBABILITY))


def binding(line: str) -> Any:
    """The right that a command in the document grants."""
    words = shlex.split(line.replace("PREFIX", PREFIX))
    said = dict(pairwise(words))
    kind, name = next(
        (kind, said[f"--{option}"])
        for option, kind in (
            ("topic", ResourceType.TOPIC),
            ("group", ResourceType.GROUP),
            ("transactional-id", ResourceType.TRANSACTIONAL_ID),
        )
        if f"--{option}" in said
    )
    pattern = ResourcePatternType.PREFIXED if "prefixed" in words else ResourcePatternType.LITERAL
    operation = AclOperation[said["--operation"].upper()]
    return AclBinding(kind, name, pattern, said["--allow-principal"], "*", operation, AclPermissionType.ALLOW)


class Cluster:
    """A broker that refuses whatever is not granted."""

    def __init__(self, secured: int, admin: KafkaSettings) -> None:
        self._secured = secured
        self.admin = admin
        self._client = admin_client(admin)

    def as_user(self, user: str) -> KafkaSettings:
        properties = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", f"sasl.username={user}"]
        return KafkaSettings.from_options(
            f"127.0.0.1:{self._secured}", PREFIX, [*properties, f"sasl.password={user}-secret"]
        )

    def grant(self, *bindings: Any) -> None:
        for done in self._client.create_acls(list(bindings)).values():
            done.result(120)

    @contextmanager
    def without(self, one: Any) -> Iterator[None]:
        match = AclBindingFilter(
            one.restype,
            one.name,
            one.resource_pattern_type,
            one.principal,
            one.host,
            one.operation,
            one.permission_type,
        )
        for done in self._client.delete_acls([match]).values():
            assert len(done.result(120)) == 1
        try:
            yield
        finally:
            self.grant(one)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    plain, secured, controller = free_port(), free_port(), free_port()
    passwords = " ".join(f'user_{user}="{user}-secret"' for user in USERS)
    broker = {
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{secured},"
        f"CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{secured}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain."
        f"PlainLoginModule required {passwords};",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # the broker itself, and this test through the other listener
    }
    with LocalKafka(tmp_path_factory.mktemp("kafka") / "kafka", plain, properties=broker) as kafka:
        one = Cluster(secured, KafkaSettings(kafka.bootstrap_servers, PREFIX, reach_within_s=60.0))
        one.grant(*map(binding, RECIPE))
        yield one


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return load_model(str(make_tiny(tmp_path_factory.mktemp("model") / "tiny", image_size=112)), "float32", "cpu")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Six seconds, two pictures per second."""
    return publish(encode_clip(tmp_path_factory.mktemp("clip") / "small.mp4", 6, fps=2, gop=4), "small")


def test_each_service_works_with_exactly_these_rights(cluster: Cluster, family: Family, tmp_path: Path) -> None:
    operator, worker = cluster.as_user("operator"), cluster.as_user("worker")
    assert len(create_topics(operator, partitions=1)) == 8
    assert check_topics(operator) == 1
    subscriber.ask(operator, "gate", EVENTFUL)
    assert subscriber.read_description(operator, "gate").questions
    clip = encode(tmp_path / "clip", "h264-plain", 120)
    assert produce(cluster.as_user("producer"), str(clip), "gate", ProduceOptions(fast=True)).ended
    with RecordSender(cluster.admin) as sender:
        sender.send(Record(f"{PREFIX}.packets", b"gate", b"rubbish", "a dead letter to be"))
    Running(worker, family, question=None).join()
    assert {one.question for one in results(cluster.as_user("subscriber"))} == {"q"}
    with subscriber.EventFollower(cluster.as_user("subscriber"), from_beginning=True, stopping=lambda: True) as events:
        assert [event.question for event in events if event.change == "opened"] == ["q"]
    stop, evidence = GracefulStop(), EvidenceStore(open_storage(str(tmp_path / "evidence")), Retention())
    options = RecorderOptions(after_s=0.0)
    Recorder(cluster.as_user("recorder"), evidence, options, stop, lambda line: stop.request()).run()
    assert len(list((tmp_path / "evidence").rglob("*.j*"))) == 2
    (tmp_path / "notify.toml").write_text('[[webhook]]\nname = "a"\nurl = "http://127.0.0.1:1"\n')
    stop, said = GracefulStop(), list[str]()
    notifier = Notifier(cluster.as_user("notifier"), read_config(tmp_path / "notify.toml").sinks, stop, said.append)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(notifier.run)
        event = Record(f"{PREFIX}.events", *encode_event(EVENT), "an event")
        while not said and not running.done():  # it reads only records written after its start
            with RecordSender(cluster.admin) as sender:
                sender.send(event)
        stop.request()
        running.result(60)
    viewer = cluster.as_user("viewer")
    with Fleet(viewer) as fleet:
        assert [one.stream for one in fleet.catch_up()] == ["gate"]
    assert {one.question for one in History(viewer, RESULTS, "gate")} == {"q"}
    assert [group.newest.code for group in dead_letters(viewer)[0]] == ["unreadable"]
    with Recording(viewer, "gate") as recording:
        assert recording.newest() is not None
    with serving(viewer, Access(None, frozenset({"127.0.0.1"}))) as address:
        until(lambda: figures(address)["streams"] == 1, what="the page knows the stream")
    remove(operator, [*find_unusable(operator), *of_stream(operator, "gate")])


def figures(address: str) -> dict[str, int]:
    with urllib.request.urlopen(f"http://{address}/status", timeout=120) as answer:
        found: dict[str, int] = json.load(answer)
    return found


def worked(cluster: Cluster, user: str, family: Family, published: Published) -> None:
    """A summary of what each service does."""
    settings = cluster.as_user(user)
    check_topics(settings)
    topics = settings.topics
    if user == "producer":
        for topic in (topics.packets, topics.metadata):
            with RecordSender(settings) as sender:
                sender.send(Record(topic, b"gate", b"x", "a record"))
    elif user == "subscriber":
        results(settings)
        with subscriber.EventFollower(settings, from_beginning=True, stopping=lambda: True) as events:
            list(events)
    elif user == "operator":
        subscriber.ask(settings, "gate", Question("q", "What is there?"))
        remove(settings, of_stream(cluster.admin, "gate") or [_a_state(topics.state)])
        with TopicTail(settings, topics.state) as tail:
            tail.catch_up()
        check_topics(settings)
    else:
        stream = f"s{uuid.uuid4().hex[:8]}"
        pictures, documents = published
        send(
            cluster.admin,
            ([replace(p, stream=stream) for p in pictures], [replace(d, stream=stream) for d in documents]),
        )
        with RecordSender(cluster.admin) as sender:
            sender.send(Record(topics.packets, b"gate", b"rubbish", "a dead letter to be"))
        running = Running(settings, family, question=EVENTFUL)
        running.join(60)
        if lost := [line for line in running.said if "dead letters and masks were rejected" in line]:
            raise KafkaError(lost[0])  # they do not stop a worker


def _a_state(topic: str) -> Any:
    return SimpleNamespace(topic=topic, key=b"gate", partition=0, shown="a state")


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in RECIPE
        if "User:producer" in line
        or ("User:subscriber" in line and "Describe" not in line)  # same as the producer's
        or ("User:worker" in line and any(one in line for one in ("state", "--group", "events")))
    ],
    ids=lambda line: " ".join(line.split()[5:10]),
)
def test_without_any_of_them_one_line_names_it(
    cluster: Cluster, family: Family, published: Published, line: str
) -> None:
    one = binding(line)
    user = one.principal.removeprefix("User:")
    create_topics(cluster.admin, partitions=1)
    with cluster.without(one), pytest.raises(KafkaError) as refused:
        worked(cluster, user, family, published)
    said = str(refused.value)
    operation = re.search(r"--operation (\w+)", line)
    assert operation is not None
    assert "this user needs the right (ACL) " in said, said
    assert re.search(rf"\b{operation[1]}\b", said), said
    assert one.name.rstrip(".") in said
    assert "secret" not in said
