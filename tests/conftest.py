"""What all tests share: one real Kafka, and fresh topics for each test that asks for them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import hypothesis
import pytest

from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import create_topics
from codecflow.localkafka.daemon import LocalKafka

PARTITIONS = 3

# A time limit for each example would measure the machine's other work.
hypothesis.settings.register_profile("codecflow", deadline=None)
hypothesis.settings.load_profile("codecflow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, else the order as it is: the last process to end is then not alone for a minute."""
    items.sort(key=lambda item: item.path.parent.name != "training")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[LocalKafka]:
    """A real broker, shared by all xdist workers: started by the first to ask, ended with the last, however that ends."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":  # each xdist worker has its own folder in the run's
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
    settings = KafkaSettings(kafka.bootstrap_servers, topic_prefix)
    create_topics(settings, partitions=PARTITIONS)
    return settings
