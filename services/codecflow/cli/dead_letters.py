"""`codecflow dead-letters`: records that could not be used, by reason."""

from __future__ import annotations

from typing import Annotated

import typer

from codecflow import logs

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings
from .status import print_json


def register(app: typer.Typer) -> None:
    app.command("dead-letters")(dead_letters)


def dead_letters(
    *,
    records: Annotated[bool, typer.Option("--records", help="Also show the newest record of each reason.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document per reason.")] = False,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """List records that workers could not use, by topic, stream and reason, with the coordinates of the newest."""
    from codecflow.subscriber.lines import time_of_day
    from codecflow.subscriber.unusable import dead_letters as read
    from codecflow.subscriber.unusable import described

    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    groups, others = read(settings)
    shown = described(settings, [group.newest for group in groups]) if records else []
    if not groups and not json:
        typer.echo(f"{settings.topics.dead_letter}: no dead letters")
    for n, group in enumerate(groups):
        letter = group.newest
        if json:
            document: dict[str, object] = {
                "topic": letter.topic,
                "stream": letter.stream,
                "code": letter.code,
                "count": group.count,
                "first_ms": group.first_ms,
                "last_ms": group.last_ms,
                "newest": {"partition": letter.partition, "offset": letter.offset, "reason": letter.reason},
            }
            print_json({**document, "record": shown[n]} if records else document)
            continue
        typer.echo(
            f"{group.count} x {letter.topic}, stream {letter.stream!r}: {letter.code}: {letter.reason} "
            f"(newest: partition {letter.partition}, offset {letter.offset}, {time_of_day(group.last_ms)})"
        )
        if records:
            typer.echo(f"    {shown[n]}")
    if others:
        logs.notice(f"{others} records on {settings.topics.dead_letter} are not dead letters", "warning")
