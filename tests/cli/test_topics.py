"""`codecflow topics` against a real broker."""

from __future__ import annotations

from codecflow.kafka.topics import CONFIGS
from codecflow.localkafka.daemon import LocalKafka

from .test_app import run


def test_topics_are_created_and_checked(kafka: LocalKafka, topic_prefix: str) -> None:
    at = ("--bootstrap-servers", kafka.bootstrap_servers, "--topic-prefix", topic_prefix)
    missing = run("topics", "check", *at)
    assert missing.returncode == 4
    assert f"{topic_prefix}.dead-letter" in missing.stderr
    created = run("topics", "create", "--partitions", "2", *at)
    assert created.returncode == 0, created.stderr
    assert created.stdout.count("created") == len(CONFIGS)
    checked = run(
        "topics", "check", "--topic-prefix", topic_prefix, CODECFLOW_BOOTSTRAP_SERVERS=kafka.bootstrap_servers
    )
    assert (checked.returncode, checked.stdout) == (0, f"{len(CONFIGS)} topics, 2 partitions\n")
