"""`codecflow results`: answers as they arrive."""

from __future__ import annotations

from typing import Annotated

import typer

from .follow import Count, FromBeginning, Stream, Timeout, follow
from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings


def register(app: typer.Typer) -> None:
    app.command("results")(results)


def results(
    *,
    stream: Stream = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document per line (schemas/result.schema.json).")
    ] = False,
    from_beginning: FromBeginning = False,
    count: Count = None,
    timeout: Timeout = None,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Follow answers as workers commit them, each once. Ctrl-C ends it."""
    from codecflow.subscriber import Follower
    from codecflow.subscriber.lines import result_json, result_line

    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    write = result_json if json else result_line
    follow(Follower, settings, stream, write, from_beginning=from_beginning, count=count, timeout=timeout)
