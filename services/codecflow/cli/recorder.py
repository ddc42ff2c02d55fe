"""`codecflow recorder`: clips and pictures of events, in a folder or a storage."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Annotated

import typer

from codecflow.errors import ConfigError

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, MetricsPort, Properties, TopicPrefix, kafka_settings

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def register(app: typer.Typer) -> None:
    app.command("recorder")(recorder)


def recorder(
    destination: Annotated[
        str,
        typer.Argument(
            help="Where to write: a folder, or an address that fsspec supports, such as s3://bucket/path: "
            "DESTINATION/STREAM/DAY/TIME-EVENT.mp4, .jpg, .json."
        ),
    ],
    *,
    stream: Annotated[str | None, typer.Option(help="Record this stream only.")] = None,
    before: Annotated[
        float, typer.Option(min=0, max=3600, metavar="SECONDS", help="Seconds of a clip before its event begins.")
    ] = 10.0,
    after: Annotated[
        float, typer.Option(min=0, max=600, metavar="SECONDS", help="Seconds of a clip after its event has closed.")
    ] = 5.0,
    longest: Annotated[
        float, typer.Option(min=1, max=21600, metavar="SECONDS", help="Maximum length of the event in a clip.")
    ] = 120.0,
    keep_days: Annotated[
        float | None, typer.Option(min=0.01, metavar="DAYS", help="Remove the files of an event after this many days.")
    ] = None,
    keep_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Remove the oldest events when all files exceed this size: 500M, 20G."),
    ] = None,
    metrics_port: MetricsPort = None,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Follow events, and write a clip, a picture and a record of each to DESTINATION. After a restart it continues
    where it stopped."""
    from codecflow.lifecycle import GracefulStop
    from codecflow.messages import check_stream_id
    from codecflow.monitoring.server import MonitoringServer
    from codecflow.recorder.evidence_store import EvidenceStore, Retention
    from codecflow.recorder.figures import RecorderFigures
    from codecflow.recorder.service import Recorder, RecorderOptions
    from codecflow.storage import open_storage

    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    options = RecorderOptions(before, after, longest, None if stream is None else check_stream_id(stream))
    retention = Retention(keep_days, None if keep_bytes is None else _size(keep_bytes))
    evidence, figures = EvidenceStore(open_storage(destination), retention), RecorderFigures()
    with (
        nullcontext() if metrics_port is None else MonitoringServer(metrics_port, figures.health, figures.samples),
        GracefulStop() as stop,
    ):
        Recorder(settings, evidence, options, stop, typer.echo, figures).run()


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15})([KMGT]?)B?", text.strip().upper())
    if match is None or int(match[1]) == 0:
        raise ConfigError(f"--keep-bytes {text[:40]!r}: use a size such as 500M or 20G")
    return int(match[1]) * _UNITS[match[2]]
