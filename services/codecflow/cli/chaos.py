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
            help="Video files that the producers play repeatedly; by default a small clip is generated.",
            parser=video_file,
        ),
    ] = None,
    *,
    minutes: Annotated[
        float, typer.Option(min=0.01, help="How long to inject faults; set-up and checks take additional time.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed for the choice of faults, times and targets.")] = 0,
    brokers: Annotated[int, typer.Option(help="Number of brokers: 1, or 3 with three copies of each record.")] = 1,
    streams: Annotated[int, typer.Option(min=1, help="Number of producers, each with one stream in real time.")] = 4,
    workers: Annotated[int, typer.Option(min=1, help="Number of workers that share them.")] = 2,
    faults: Annotated[
        str | None, typer.Option(metavar="KIND,...", help="Only these faults, in turn.  [default: all kinds, shuffled]")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep all logs in this folder, which must be new or empty.")
    ] = None,
) -> None:
    """Inject faults into producers, workers and brokers that it starts; count what is lost or doubled.

    Every window of every stream must be answered once, as by an undisturbed worker, and every service must recover by
    itself. Prints a table and one JSON line; exit status 1 if anything is wrong.
    """
    from codecflow.tools.chaos.run import ChaosOptions, run

    kinds = tuple(kind.strip() for kind in faults.split(",")) if faults else ()
    options = ChaosOptions(minutes, seed, brokers, streams, workers, tuple(clips or ()), kinds, keep)
    run(options, lambda line: typer.echo(f"codecflow: {line}", err=True))
