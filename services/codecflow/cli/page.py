"""`codecflow page`: cameras and answers in a browser."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from codecflow.errors import ConfigError

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, MetricsPort, Properties, TopicPrefix, kafka_settings

DEFAULT_PORT = 8600


def register(app: typer.Typer) -> None:
    app.command("page")(page)


def page(
    *,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; 0.0.0.0: all interfaces. Any address but a loopback one needs a token."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = DEFAULT_PORT,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that browsers must enter; or CODECFLOW_PAGE_TOKEN in the environment."),
    ] = None,
    no_token: Annotated[
        bool,
        typer.Option("--no-token", help="Listen on any address without a token, behind a proxy that authenticates."),
    ] = False,
    host_name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Without a token: another host name that the page accepts. May be repeated."),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Origin of the page behind a proxy that changes the header Host: https://cams.example. May be repeated.",
        ),
    ] = None,
    metrics_port: MetricsPort = None,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Show cameras, answers and their cost in a browser (docs/how-to/page.md), live or from what Kafka still holds.

    It only reads topics, like any subscriber.
    """
    try:
        from codecflow.page.access import Access, is_loopback, read_token
        from codecflow.page.health import PageHealth
        from codecflow.page.serve import bind, serve
    except ImportError as error:
        raise ConfigError(f"page: {error.name} is not installed: pip install 'codecflow[page]'") from error
    from codecflow.kafka.topics import check_topics
    from codecflow.lifecycle import GracefulStop
    from codecflow.monitoring.server import MonitoringServer

    token = read_token(token_file, os.environ.get("CODECFLOW_PAGE_TOKEN"))
    if token is not None and no_token:
        raise ConfigError("page: --no-token and a token exclude each other")
    if token is None and not no_token and not is_loopback(host):
        raise ConfigError(
            f"page: {host} can be reached from other machines: give a token with --token-file, or use --no-token where a "
            "proxy authenticates viewers"
        )
    hosts = None if token is not None or no_token else frozenset({host, *(host_name or ())})
    access = Access(token, hosts, frozenset(one.rstrip("/") for one in origin or ()))
    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    health = PageHealth()
    with (
        nullcontext() if metrics_port is None else MonitoringServer(metrics_port, health.health, health.samples),
        bind(host, port) as listening,
        GracefulStop() as stop,
    ):
        check_topics(settings)
        address = listening.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]

        def ready() -> None:
            typer.echo(f"page: http://{shown}:{address[1]}/{'' if token is None else '  (asks for the token)'}")

        serve(settings, access, listening, stop, ready, health)
