"""`codecflow bench`: measurements. Each prints a table for people and ends with one JSON line for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecflow.cli.bench_window import window


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="bench", help="Measure; a table for people, then one JSON line for machines.", no_args_is_help=True
    )
    group.command("policies")(policies)
    group.command("producer")(producer)
    group.command("window")(window)
    app.add_typer(group)


def policies(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Video files, any codec.")],
    *,
    fps: Annotated[str, typer.Option(help="Sampled frames a second; 2, 0.5 and 1/3 all work.")] = "2",
    size: Annotated[int, typer.Option(min=1, help="Side of the model's square input, in pixels.")] = 448,
    token: Annotated[int, typer.Option(min=1, help="Side of a token in that input, in pixels.")] = 28,
    anchor: Annotated[str, typer.Option(help="Seconds between anchors.")] = "8",
    window: Annotated[str, typer.Option(help="Seconds of a window, for coverage once a window.")] = "40",
    threshold: Annotated[float, typer.Option(help="Grey levels of mean change that keep a token.")] = 4.0,
    detail: Annotated[float, typer.Option(help="Grey levels of change in a 16th of a token that keep it.")] = 8.0,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Only the first seconds of each clip.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a chart of the kept share over time (PNG, SVG).")] = None,
) -> None:
    """What each keep policy keeps, lets go stale, and certifies by the codec signal alone."""
    from codecflow.bench.policies import run
    from codecflow.exact import positive
    from codecflow.keep import KeepConfig

    window_s = positive(window, "--window")
    config = KeepConfig(
        fps=positive(fps, "--fps"),
        period_s=positive(anchor, "--anchor"),
        threshold=threshold,
        detail_threshold=detail,
    )
    run(clips, config, size=size, token=token, window_s=window_s, seconds=seconds, plot=plot)


def producer(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A video file, any codec.")],
    *,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved runs; medians are reported.")] = 5,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Only the first seconds of the clip.")] = None,
) -> None:
    """What the producer costs: the codec signal against a bare decode, and metadata against the coded pictures."""
    from codecflow.bench.producer import run

    run(clip, repeats, seconds)
