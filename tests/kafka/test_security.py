"""Brokers that want to know who we are: properties reach librdkafka, and passwords nobody else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from codecflow.kafka.failures import BrokerUnreachableError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import check_topics, create_topics
from codecflow.localkafka.daemon import LocalKafka
from codecflow.localkafka.files import free_port

PASSWORD = "correct-horse-battery"


def test_sasl(tmp_path: Path) -> None:
    plain, secured, controller = free_port(), free_port(), free_port()
    broker = {
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{secured},"
        f"CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{secured}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain."
        f'PlainLoginModule required user_camera="{PASSWORD}";',
    }
    with LocalKafka(tmp_path / "kafka", plain, properties=broker):
        properties = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", "sasl.username=camera"]
        settings, intruder = (
            KafkaSettings.from_options(f"127.0.0.1:{secured}", properties=[*properties, f"sasl.password={password}"])
            for password in (PASSWORD, "wrong-" + PASSWORD)
        )
        create_topics(settings, partitions=1)
        assert check_topics(settings) == 1
        with RecordSender(settings) as sender:
            sender.send(Record(settings.topics.packets, b"gate-3", b"x", "a record"))
        with TopicTail(settings, settings.topics.packets) as tail:
            assert [record.value() for record in tail.catch_up()] == [b"x"]
        began = time.monotonic()
        with pytest.raises(BrokerUnreachableError, match=r"Invalid username or password.*--kafka-config") as refused:
            check_topics(intruder)
        assert time.monotonic() - began < 8, "waiting does not help"
        assert PASSWORD not in str(refused.value)
