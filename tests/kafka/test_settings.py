"""What reaches librdkafka, and what is never displayed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from codecflow.errors import ConfigError
from codecflow.kafka.clients import require_broker
from codecflow.kafka.failures import BrokerUnreachableError
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.localkafka.files import free_port

SECRET = "correct-horse-battery"


def test_options_win_over_properties_and_those_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("# brokers\nbootstrap.servers = a:1\n\nclient.id=file\nlinger.ms=7\n")
    settings = KafkaSettings.from_options(None, "cams", ["client.id=x=y"], file)
    assert settings.bootstrap_servers == "a:1"
    assert dict(settings.properties) == {"client.id": "x=y", "linger.ms": "7"}
    assert KafkaSettings.from_options("b:2", "cams", [], file).bootstrap_servers == "b:2"
    assert settings.topics.dead_letter == "cams.dead-letter"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"properties": [SECRET]}, "-X: KEY=VALUE"),
        ({"properties": ["partitioner=random"]}, "partitioner"),
        ({"properties": ["isolation.level=read_uncommitted"]}, "isolation.level"),
        ({"properties": [f"oauth_cb={SECRET}"]}, "oauth_cb: its value is not a text"),
        ({"properties": [f"default.topic.config={SECRET}"]}, "default.topic.config"),
        ({"topic_prefix": "no spaces"}, "topic prefix"),
        ({"bootstrap_servers": " "}, "HOST:PORT"),
        ({"config_file": Path("/no/such/file")}, "/no/such/file"),
    ],
)
def test_what_cannot_work_is_refused_without_repeating_values(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        KafkaSettings.from_options(**options)  # type: ignore[arg-type]
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_faulty_line_of_the_file_is_named_but_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text(f"linger.ms=7\n{SECRET}\n")
    with pytest.raises(ConfigError, match="line 2") as refused:
        KafkaSettings.from_options(config_file=file)
    assert SECRET not in str(refused.value)


def test_secrets_are_in_no_repr_log_or_error(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "codecflow.librdkafka")
    secrets = {
        "sasl.password": SECRET,
        "ssl.key.password": SECRET,
        "ssl.key.pem": SECRET,
        "sasl.oauthbearer.config": f"principal={SECRET}",
        "sasl.oauthbearer.client.secret": SECRET,
    }
    security = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "u", "debug": "all"}
    settings = KafkaSettings(
        f"127.0.0.1:{free_port()}", properties=security | {"sasl.password": SECRET}, reach_within_s=1
    )
    with pytest.raises(BrokerUnreachableError) as unreachable:
        require_broker(settings)
    all_of_them = KafkaSettings(properties=security | secrets | {"security.protocol": "SASL_SSL"})
    with pytest.raises(ConfigError) as refused:
        RecordSender(all_of_them)
    shown = capfd.readouterr()
    texts = (str(unreachable.value), str(refused.value), repr(settings), repr(all_of_them), f"{all_of_them}")
    assert any("sasl.password" in text for text in texts)
    assert any("librdkafka" in record.name for record in caplog.records)
    for text in (*texts, caplog.text, shown.out, shown.err):
        assert SECRET not in text


def test_librdkafka_is_silent_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokerUnreachableError):
        require_broker(KafkaSettings(f"127.0.0.1:{free_port()}", reach_within_s=1))
    assert capfd.readouterr() == ("", "")
