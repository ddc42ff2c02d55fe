"""`codecflow chaos`: faults on purpose, for those who change or operate CodecFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import video_file


def register(app: typer.Typer) -> None:
    app.command("chaos")(chaos)


def chaos(
    clips: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[CLIP...]",
            help="Video files that the producers play, over and over; without one, a small clip is made.",
            parser=video_file,
        ),
    ] = None,
    *,
    minutes: Annotated[
        float, typer.Option(min=0.01, help="How long faults go on; setting up and checking come on top.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Which faults, when and where, repeatably.")] = 0,
    brokers: Annotated[int, typer.Option(help="Real brokers: 1, or 3 with three copies of each record.")] = 1,
    streams: Annotated[int, typer.Option(min=1, help="Producers, each with a stream, in real time.")] = 4,
    workers: Annotated[int, typer.Option(min=1, help="Workers that share them.")] = 2,
    faults: Annotated[
        str | None, typer.Option(metavar="KIND,...", help="These faults, in turn.  [default: all kinds, shuffled]")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep all logs in this folder, new or empty.")
    ] = None,
) -> None:
    """Kill, freeze, cut off and poison producers, workers and brokers that are started here; count what is lost or doubled.

    Every window of every stream must be answered once, as by a worker that nobody disturbs, and every service must come back
    by itself. Ends with a table, one JSON line, and status 1 where anything is wrong.
    """
    from codecflow.tools.chaos.run import ChaosOptions, run

    kinds = tuple(kind.strip() for kind in faults.split(",")) if faults else ()
    options = ChaosOptions(minutes, seed, brokers, streams, workers, tuple(clips or ()), kinds, keep)
    run(options, lambda line: typer.echo(f"codecflow: {line}", err=True))
