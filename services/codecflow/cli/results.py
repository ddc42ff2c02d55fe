"""`codecflow results`: answers as they arrive."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings


def register(app: typer.Typer) -> None:
    app.command("results")(results)


def results(
    *,
    stream: Annotated[str | None, typer.Option(help="Follow this stream only.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document a line (schemas/result.schema.json).")
    ] = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with all that are still kept.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many answers.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Stop when no answer has come for so many seconds.")
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Follow answers, each once, as workers commit them. Ctrl-C ends it after those already there."""
    from codecflow.lifecycle import GracefulStop
    from codecflow.subscriber import Follower
    from codecflow.subscriber.lines import result_json, result_line

    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    with (
        GracefulStop() as stopping,
        Follower(
            settings,
            stream,
            from_beginning=from_beginning,
            timeout_s=timeout,
            stopping=lambda: stopping.requested,
        ) as follower,
    ):
        for number, result in enumerate(follower, 1):
            print(result_json(result) if json else result_line(result), flush=True)
            if number == count:
                break
