"""Shared fixtures: one real Kafka, and fresh topics for each test that uses them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest

from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import create_topics
from codecflow.localkafka.daemon import LocalKafka

PARTITIONS = 3

# A time limit per example would depend on the machine's other work.
hypothesis.settings.register_profile("codecflow", deadline=None)
hypothesis.settings.load_profile("codecflow")


WAITING = ("chaos", "worker", "kafka", "page", "recorder", "producer", "notify", "localkafka", "cli", "subscriber")
"""Folders of tests that mostly wait, for a broker, a camera or a clock; those with the longest files first."""

COMPUTING = ("demo", "training", "evaluate", "bench", "demo_model", "vlm", "codec")
"""Folders of tests that mostly compute, likewise. All others come after them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mixes tests that wait with tests that compute, so that neither the processors nor the processes stand still. Long
    files come first, so that no process runs alone at the end."""
    files = list(dict.fromkeys(item.path for item in items))
    computing = {name: rank for rank, name in enumerate(COMPUTING)}
    waits = sorted((file for file in files if file.parent.name in WAITING), key=lambda x: WAITING.index(x.parent.name))
    others = sorted(
        (file for file in files if file.parent.name not in WAITING),
        key=lambda file: computing.get(file.parent.name, len(computing)),
    )
    place = {file: (n + 0.5) / len(group) for group in (waits, others) for n, file in enumerate(group)}
    items.sort(key=lambda item: place[item.path])


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[LocalKafka]:
    """A real broker, shared by all xdist workers: started by the first user, stopped with the last, however that ends."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":  # all xdist workers share the run's folder
        shared = shared.parent
    with LocalKafka(shared / "kafka") as broker:
        _prefer(broker.broker.pid)
        yield broker


def _prefer(session: int) -> None:
    """All tests wait for this broker, so a busy machine must not let it starve. Linux divides a processor between sessions
    first, and the broker is the only process of its session that computes. Needs the right to do so, as root has."""
    with suppress(OSError):
        Path(f"/proc/{session}/autogroup").write_text("-10", encoding="ascii")


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
