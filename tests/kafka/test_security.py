"""Brokers with authentication: properties reach librdkafka, and passwords are not shown anywhere else."""

from __future__ import annotations

import socketserver
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from codecflow.errors import ConfigError
from codecflow.kafka.failures import BrokerUnreachableError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import check_topics, create_topics
from codecflow.localkafka.daemon import LocalKafka
from codecflow.localkafka.files import free_port

CERTIFICATES = Path(__file__).parents[1] / "data" / "certificates"
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
            check_topics(replace(intruder, reach_within_s=120))
        assert time.monotonic() - began < 60, "waiting does not help"
        assert PASSWORD not in str(refused.value)
        with pytest.raises(BrokerUnreachableError, match=r"security\.protocol=plaintext right\? check the security"):
            check_topics(KafkaSettings(f"127.0.0.1:{secured}", reach_within_s=2))


@contextmanager
def tls_port(certificate: str) -> Iterator[str]:
    """HOST:PORT of a TLS server. It is not Kafka, and closes each connection at the first bytes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / certificate)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                context.wrap_socket(self.request, server_side=True).recv(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("certificate", "trusted"),
    [("camera.pem", "other.pem"), ("other.pem", "ca.pem"), ("expired.pem", "expired.pem")],
    ids=["another authority", "another host", "expired"],
)
def test_a_brokers_certificate_that_cannot_be_trusted_is_reported(certificate: str, trusted: str) -> None:
    properties = {"security.protocol": "SSL", "ssl.ca.location": str(CERTIFICATES / trusted)}
    with (
        tls_port(certificate) as address,
        pytest.raises(BrokerUnreachableError, match=r"certificate verify failed.*check the security .*is valid"),
    ):
        check_topics(KafkaSettings(address, properties=properties, reach_within_s=1.5))


@pytest.mark.parametrize("protocol", ["plaintext", "SASL_PLAINTEXT"])
def test_a_tls_port_without_tls_is_reported(protocol: str) -> None:
    properties = {
        "security.protocol": protocol,
        "sasl.mechanism": "PLAIN",
        "sasl.username": "u",
        "sasl.password": PASSWORD,
    }
    with tls_port("camera.pem") as address:
        settings = KafkaSettings(address, properties=properties, reach_within_s=2)
        with pytest.raises(BrokerUnreachableError, match=rf"is security\.protocol={protocol} right\?"):
            check_topics(settings)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    properties = {"security.protocol": "SSL", "ssl.ca.location": str(tmp_path / "ca.pem")}
    with pytest.raises(ConfigError, match=r"ssl\.ca\.location: .*/ca\.pem: no such file"):
        check_topics(KafkaSettings(properties=properties))
