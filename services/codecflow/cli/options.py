"""Options that commands share, and the settings that they make."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from codecflow.errors import ConfigError
from codecflow.kafka.settings import DEFAULT_BOOTSTRAP_SERVERS, DEFAULT_TOPIC_PREFIX, KafkaSettings

_PANEL = "Kafka"

BootstrapServers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        envvar="CODECFLOW_BOOTSTRAP_SERVERS",
        metavar="HOST:PORT,...",
        help="Kafka bootstrap servers. The command fails if none answers within 10 s (CODECFLOW_REACH_WITHIN_S).",
        show_default=DEFAULT_BOOTSTRAP_SERVERS,
        rich_help_panel=_PANEL,
    ),
]
TopicPrefix = Annotated[
    str,
    typer.Option(
        "--topic-prefix",
        envvar="CODECFLOW_TOPIC_PREFIX",
        help="First part of every topic's name.",
        rich_help_panel=_PANEL,
    ),
]
Properties = Annotated[
    list[str] | None,
    typer.Option(
        "-X",
        metavar="KEY=VALUE",
        help="librdkafka property (security.protocol=SASL_SSL ...); may be repeated. Put secrets into --kafka-config: "
        "other users see a command line.",
        rich_help_panel=_PANEL,
    ),
]
KafkaConfig = Annotated[
    Path | None,
    typer.Option(
        "--kafka-config",
        envvar="CODECFLOW_KAFKA_CONFIG",
        metavar="FILE",
        help="File of KEY=VALUE lines with librdkafka properties.",
        rich_help_panel=_PANEL,
    ),
]

MetricsPort = Annotated[
    str | None,
    typer.Option(
        "--metrics-port",
        envvar="CODECFLOW_METRICS_PORT",
        metavar="[HOST:]PORT",
        help="Serve /metrics for Prometheus, and the probes /livez, /readyz and /startupz.  [HOST: 127.0.0.1]",
        show_default=False,
    ),
]


def picture_pixels(text: str) -> int:
    """Samples of the largest picture, from its size such as 1920x1080. Raises ConfigError."""
    from codecflow.codec.pictures import MAX_PIXELS

    width, _, height = text.partition("x")
    if width.isascii() and width.isdigit() and height.isascii() and height.isdigit() and len(text) < 16:
        pixels = int(width) * int(height)
        if 0 < pixels <= MAX_PIXELS:
            return pixels
    raise ConfigError(f"--max-picture-size {text!r}: use WIDTHxHEIGHT such as 3840x2160, at most 8192x8192")


MaxPictureSize = Annotated[
    str,
    typer.Option(
        "--max-picture-size",
        metavar="WIDTHxHEIGHT",
        help="Refuse larger pictures before they are decoded.",
    ),
]


def video_file(text: str) -> Path:
    """For commands that take recordings: the path of a file. Raises ConfigError for a camera's address or a pipe."""
    from codecflow.codec.addresses import is_address, shown

    if text == "-" or is_address(text):
        raise ConfigError(
            f"{shown(text)}: this command takes video files; a camera or a pipe is published with codecflow produce"
        )
    return Path(text)


DEFAULT_PREFIX = DEFAULT_TOPIC_PREFIX


def kafka_settings(
    bootstrap_servers: str | None, topic_prefix: str, properties: list[str] | None, kafka_config: Path | None
) -> KafkaSettings:
    """What the four options above say together, with CODECFLOW_REACH_WITHIN_S from the environment. Raises ConfigError."""
    settings = KafkaSettings.from_options(bootstrap_servers, topic_prefix, properties or (), kafka_config)
    text = os.environ.get("CODECFLOW_REACH_WITHIN_S")
    if not text:
        return settings
    try:
        return replace(settings, reach_within_s=float(text))
    except ValueError:
        raise ConfigError(f"CODECFLOW_REACH_WITHIN_S={text}: seconds above 0 are expected") from None
