"""`codecflow topics`: create and check the topics of the wire."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings


def register(app: typer.Typer) -> None:
    group = typer.Typer(name="topics", help="Create and check the topics of CodecFlow.", no_args_is_help=True)
    group.command("create")(create)
    group.command("check")(check)
    group.command("clean")(clean)
    app.add_typer(group)


def create(
    *,
    partitions: Annotated[
        int,
        typer.Option(min=1, help="Partitions of each topic: the maximum number of workers that can share the streams."),
    ] = 8,
    replication: Annotated[
        int, typer.Option(min=1, help="Copies of each record; 3 in a cluster of three or more.")
    ] = 1,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Create the topics that are missing, then check all of them."""
    from codecflow.kafka.topics import CONFIGS, check_topics, create_topics

    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    for topic in create_topics(settings, partitions, replication):
        typer.echo(f"created {topic}")
    typer.echo(f"{len(CONFIGS)} topics, {check_topics(settings)} partitions")


def check(
    *,
    window: Annotated[
        str,
        typer.Option(
            metavar="SECONDS", help="The workers' --window: packets and metadata must be kept for twice as long."
        ),
    ] = "40",
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Check that all topics exist, have equal partition counts and keep records long enough."""
    from codecflow.exact import positive
    from codecflow.kafka.topics import CONFIGS, check_retention, check_topics

    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    window_s = float(positive(window, "--window"))
    partitions = check_topics(settings)
    check_retention(settings, window_s)
    typer.echo(f"{len(CONFIGS)} topics, {partitions} partitions")


def clean(
    *,
    stream: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Remove the state of this stream instead, valid or not: workers then begin at their group's offsets. "
            "Stop them first.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Remove unusable records from the compacted topics, streams and state, where they would stay indefinitely."""
    from codecflow.kafka.compacted import find_unusable, of_stream, remove
    from codecflow.messages import check_stream_id
    from codecflow.text import one_line

    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    found = find_unusable(settings) if stream is None else of_stream(settings, check_stream_id(stream))
    for one in found:
        typer.echo(f"{'would remove' if dry_run else 'removing'} {one_line(one.shown)}: {one_line(one.reason)}")
    if found and not dry_run:
        remove(settings, found)
    typer.echo(f"{len(found)} records {'to remove' if dry_run else 'removed'}")
