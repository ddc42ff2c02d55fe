"""`codecflow notify`: events sent to webhooks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings


def register(app: typer.Typer) -> None:
    app.command("notify")(notify)


def notify(
    config: Annotated[
        Path, typer.Argument(help="TOML file with a [[webhook]] table for each sink (docs/how-to/events.md).")
    ],
    *,
    check: Annotated[bool, typer.Option("--check", help="Only check the file.")] = False,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Tell webhooks of events, each at least once, as they are committed. Goes on where it was stopped."""
    from codecflow.lifecycle import GracefulStop
    from codecflow.notify.config import read_config
    from codecflow.notify.service import Notifier

    sinks = read_config(config)
    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    for sink in sinks:
        typer.echo(f"{sink.name}: webhook at {sink.host}, {'signed' if sink.secret else 'not signed'}")
    if check:
        return
    with GracefulStop() as stop:
        Notifier(settings, sinks, stop, typer.echo).run()
