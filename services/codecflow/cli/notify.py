"""`codecflow notify`: events sent to webhooks, MQTT, e-mail and chat."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, MetricsPort, Properties, TopicPrefix, kafka_settings


def register(app: typer.Typer) -> None:
    app.command("notify")(notify)


def notify(
    config: Annotated[
        Path,
        typer.Argument(
            help="TOML file with a table [[webhook]], [[mqtt]] or [[apprise]] per sink (docs/how-to/notifications.md)."
        ),
    ],
    *,
    check: Annotated[bool, typer.Option("--check", help="Only check the file.")] = False,
    metrics_port: MetricsPort = None,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Deliver events to sinks, each at least once, as they are committed. After a restart it continues where it stopped."""
    from codecflow.lifecycle import GracefulStop
    from codecflow.monitoring.server import MonitoringServer
    from codecflow.notify.config import read_config
    from codecflow.notify.figures import NotifierFigures
    from codecflow.notify.service import Notifier
    from codecflow.storage import open_storage

    read = read_config(config)
    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    for sink in read.sinks:
        typer.echo(f"{sink.options.name}: {sink.kind} at {sink.place}" + (f", {sink.notes}" if sink.notes else ""))
    if check:
        return
    evidence = None if read.evidence is None else open_storage(read.evidence, write=False)
    figures = NotifierFigures(sink.options.name for sink in read.sinks)
    with (
        nullcontext() if metrics_port is None else MonitoringServer(metrics_port, figures.health, figures.samples),
        GracefulStop() as stop,
    ):
        Notifier(settings, read.sinks, stop, typer.echo, evidence, figures).run()
