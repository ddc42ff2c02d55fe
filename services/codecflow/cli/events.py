"""`codecflow events`: what happened on streams, as it is committed."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings


def register(app: typer.Typer) -> None:
    app.command("events")(events)


def events(
    *,
    stream: Annotated[str | None, typer.Option(help="Follow this stream only.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document a line (schemas/event.schema.json).")] = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with all that are still kept.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many changes.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Stop when no change has come for so many seconds.")
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Follow changes of events (opened, updated, closed), each once, as workers commit them. Ctrl-C ends it."""
    from codecflow.lifecycle import GracefulStop
    from codecflow.subscriber import EventFollower
    from codecflow.subscriber.lines import event_json, event_line

    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    with (
        GracefulStop() as stopping,
        EventFollower(
            settings,
            stream,
            from_beginning=from_beginning,
            timeout_s=timeout,
            stopping=lambda: stopping.requested,
        ) as follower,
    ):
        for number, event in enumerate(follower, 1):
            print(event_json(event) if json else event_line(event), flush=True)
            if number == count:
                break
