"""`codecflow stream`: the description of one stream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecflow.errors import ConfigError
from codecflow.text import one_line

from .ask import question_line
from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings


def register(app: typer.Typer) -> None:
    app.command("stream")(stream)


def stream(
    stream: Annotated[str, typer.Argument(help="Stream id; the stream need not exist yet.")],
    *,
    zones: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON file with zones that replace the current ones, such as "
            '`[{"name": "street", "use": "ignore", "polygon": [[0, 0], [1, 0], [1, 0.3]]}]`; x, y: 0 to 1. '
            "`ignore`: the model never sees it. `only`: the model sees nothing else. `place`: a name for questions.",
        ),
    ] = None,
    clear_zones: Annotated[bool, typer.Option("--clear-zones", help="Remove all its zones.")] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete its questions, rules and zones, for a camera that is removed.")
    ] = False,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Print the questions and zones of STREAM; set its zones or delete both, from its next window on, without a restart."""
    from codecflow import subscriber

    if sum([zones is not None, clear_zones, delete]) > 1:
        raise ConfigError("stream: --zones, --clear-zones and --delete exclude each other")
    found = () if zones is None else subscriber.read_zones(zones)
    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    if delete:
        subscriber.delete_description(settings, stream)
        typer.echo(f"{stream}: its questions, rules and zones are deleted; stop its producer too")
        return
    if zones is not None or clear_zones:
        description = subscriber.set_zones(settings, stream, found)
    else:
        description = subscriber.read_description(settings, stream)
    if not description.questions:
        typer.echo(f"{stream}: no questions configured")
    for question in description.questions:
        typer.echo(f"{stream}  question {question_line(question)}")
    for zone in description.zones:
        corners = " ".join(f"({x:g}, {y:g})" for x, y in zone.polygon)
        typer.echo(f"{stream}  zone {one_line(zone.name)}  [{zone.use}]  {corners}")
    if not description.zones:
        typer.echo(f"{stream}: no zones")
