"""Shared fixtures: one real Kafka, and fresh topics for each test that uses them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import hypothesis
import pytest

from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import create_topics
from codecflow.localkafka.daemon import LocalKafka

PARTITIONS = 3

# A time limit per example would depend on the machine's other work.
hypothesis.settings.register_profile("codecflow", deadline=None)
hypothesis.settings.load_profile("codecflow")


LONGEST = ("chaos", "demo", "training", "worker", "kafka", "evaluate", "bench", "demo_model")
"""Folders of the files that take longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs these first and keeps the order otherwise, so that no process runs alone for a minute at the end."""
    order = {name: n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[LocalKafka]:
    """A real broker, shared by all xdist workers: started by the first user, stopped with the last, however that ends."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":  # all xdist workers share the run's folder
        shared = shared.parent
    with LocalKafka(shared / "kafka") as broker:
        yield broker


@pytest.fixture
def topic_prefix() -> str:
    """A prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def kafka_settings(kafka: LocalKafka, topic_prefix: str) -> KafkaSettings:
    """Settings for the shared broker with the topics of `topic_prefix`, three partitions each."""
    settings = KafkaSettings(kafka.bootstrap_servers, topic_prefix, reach_within_s=60.0)  # a busy machine is slow
    create_topics(settings, partitions=PARTITIONS)
    return settings
