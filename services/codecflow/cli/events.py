"""`codecflow events`: what happened on streams, as it is committed."""

from __future__ import annotations

from typing import Annotated

import typer

from .follow import Count, FromBeginning, Stream, Timeout, follow
from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings


def register(app: typer.Typer) -> None:
    app.command("events")(events)


def events(
    *,
    stream: Stream = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document per line (schemas/event.schema.json).")
    ] = False,
    from_beginning: FromBeginning = False,
    count: Count = None,
    timeout: Timeout = None,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Follow events (opened, updated, closed) as workers commit them, each change once. Ctrl-C ends it."""
    from codecflow.subscriber import EventFollower
    from codecflow.subscriber.lines import event_json, event_line

    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    write = event_json if json else event_line
    follow(EventFollower, settings, stream, write, from_beginning=from_beginning, count=count, timeout=timeout)
