"""`codecflow kafka`: a real Apache Kafka on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from codecflow.errors import KafkaError


def default_data_dir() -> Path:
    """codecflow/kafka in the user's data folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "codecflow" / "kafka"


DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="CODECFLOW_KAFKA_DATA",
        help="Folder of the broker's data and logs.",
        default_factory=default_data_dir,
        show_default="~/.local/share/codecflow/kafka",
    ),
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="kafka", help="Run Apache Kafka on this machine, for trials and tests.", no_args_is_help=True
    )
    group.command("start")(start)
    group.command("stop")(stop)
    group.command("status")(status)
    app.add_typer(group)


def start(
    *,
    data_dir: DataDir,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port to listen on; 0 finds a free one.",
            show_default="the one used last, else 9092",
        ),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in the foreground; Ctrl-C stops the broker.")
    ] = False,
) -> None:
    """Start one node of Apache Kafka in the background; it listens on this machine only and runs until it is stopped."""
    from codecflow.lifecycle import GracefulStop
    from codecflow.localkafka.daemon import LocalKafka, start_daemon

    if foreground:
        with GracefulStop() as stopping, LocalKafka(data_dir, port, _progress) as kafka:
            _progress(f"ready; data and logs in {kafka.broker.data_dir}; Ctrl-C stops it")
            typer.echo(kafka.bootstrap_servers)
            while not stopping.wait(1.0):
                if not kafka.running():
                    raise KafkaError(f"local Kafka: the broker has ended; see {data_dir}/broker.log")
        return
    broker = start_daemon(data_dir, port, _progress)
    _progress(f"ready; data and logs in {broker.data_dir}")
    typer.echo(broker.bootstrap_servers)


def stop(data_dir: DataDir) -> None:
    """Stop the broker of this data directory cleanly. Its data are kept."""
    from codecflow.localkafka.daemon import stop as stop_broker

    typer.echo("stopped" if stop_broker(data_dir) else "not running")


def status(data_dir: DataDir) -> None:
    """Print whether the broker of this data directory answers. Exit status 1 if it does not run."""
    from codecflow.localkafka.daemon import status as broker_status

    broker = broker_status(data_dir)
    if broker is None:
        typer.echo("not running")
        raise typer.Exit(1)
    typer.echo(
        f"Apache Kafka {broker.kafka} answers at {broker.bootstrap_servers} (process {broker.pid}, {broker.data_dir})"
    )


def _progress(line: str) -> None:
    typer.echo(line, err=True)
