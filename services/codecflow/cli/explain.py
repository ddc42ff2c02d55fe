"""`codecflow explain`: the method on a clip, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import video_file


def register(app: typer.Typer) -> None:
    app.command("explain")(explain)


def explain(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="Video file, any codec.", parser=video_file)],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the pictures; created if missing.")],
    fps: Annotated[str, typer.Option(help="Sampled frames per second, such as 2, 0.5 or 1/3.")] = "2",
    side: Annotated[int, typer.Option(min=1, help="Tokens along each side of the model's grid.")] = 16,
    window: Annotated[str, typer.Option(help="Seconds of a window.")] = "40",
    stride: Annotated[str, typer.Option(help="Seconds that the window moves between answers.")] = "8",
    coverage: Annotated[
        str | None,
        typer.Option(
            help="SECONDS between anchors, once (per window), rolling[=SECONDS] or background[=SECONDS]."
            "  [default: 8, or what fits the window]"
        ),
    ] = None,
    refresh: Annotated[
        str, typer.Option(help="Refresh policy of the window's picture: none, anchors or all.")
    ] = "anchors",
    seconds: Annotated[float | None, typer.Option(min=1, help="Only the first seconds of the clip.")] = None,
    zones: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Zones of the clip, as `codecflow stream --zones` takes them.")
    ] = None,
) -> None:
    """Draw the method on a clip: a frame with its codec signal and keep mask, a window's KV, the kept share over time."""
    from codecflow import subscriber
    from codecflow.keep import KeepConfig, parse_coverage
    from codecflow.tools.bench.explain import run
    from codecflow.worker.window_plan import WindowPlan

    plan = WindowPlan.of(window, stride, fps)
    kind, period_s, slack_s = parse_coverage(coverage, plan.time(plan.window_slots), plan.fps)
    config = KeepConfig(fps=plan.fps, coverage=kind, period_s=period_s, slack_s=slack_s)
    found = () if zones is None else subscriber.read_zones(zones)
    run(clip, out, config, plan, side=side, refresh=refresh, seconds=seconds, zones=found)
