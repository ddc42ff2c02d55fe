"""`codecflow demo`: the whole path on this machine, with one command."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from codecflow.errors import ConfigError

from .options import video_file

WINDOW_S, STRIDE_S = 40, 8
TINY_STRIDE_S = 2
"""With codecflow-tiny, which answers about the newest 2 s of its window: so an answer every 2 s shows people come and go."""


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="Any video file; by default the clip that comes with the source code.",
            parser=video_file,
        ),
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint: hub id or folder, or codecflow-tiny, the trained demo model (needs codecflow[demo])."
            " Without one, a tiny untrained one is made."
        ),
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Seconds of a window.")] = WINDOW_S,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Seconds from one answer to the next.  [default: {STRIDE_S}; codecflow-tiny: {TINY_STRIDE_S}]"
        ),
    ] = None,
    fps: Annotated[str, typer.Option(help="Sampled frames per second, such as 2 or 1/2.")] = "2",
    keep: Annotated[str, typer.Option(help="Keep policy: all, motion or replenish.")] = "replenish",
    refresh: Annotated[str, typer.Option(help="Refresh policy: none, anchors, budget or all.")] = "none",
    realtime: Annotated[bool, typer.Option("--realtime", help="Play in real time, as a camera would.")] = False,
    page: Annotated[
        bool,
        typer.Option(
            "--page",
            help="For watching in a browser: play in real time, and keep running until Ctrl-C.",
        ),
    ] = False,
) -> None:
    """Start Kafka, a producer, a worker and a page on this machine, and play a clip through them.

    It ends by itself and stops what it started. The last line is a JSON object with the figures of the summary.
    """
    import orjson

    from codecflow.exact import positive
    from codecflow.tools.demo.session import DemoOptions, run
    from codecflow.tools.demo.source_figures import JPEG_QUANTISER
    from codecflow.tools.demo.tally import Figures
    from codecflow.tools.demo.watch import Display
    from codecflow.tools.demo_model.checkpoint import NAME

    if source is None:
        source = Path(__file__).parents[3] / "tests" / "data" / "intel_one-by-one-person-detection.mp4"
        if not source.is_file():
            raise ConfigError("demo: no clip comes with this installation; give a video file: codecflow demo any.mp4")
    # Ended by an orchestrator or a closed terminal as by Ctrl-C: what was started is stopped on the way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    options = DemoOptions(
        source=source,
        model=model,
        window_s=window,
        stride_s=stride or (TINY_STRIDE_S if model == NAME else STRIDE_S),
        fps=positive(fps, "--fps"),
        realtime=realtime or page,
        stay=page,
        worker=("--keep", keep, "--refresh", refresh),
    )
    found: list[Figures] = []
    with Display() as display:

        def done(figures: Figures) -> None:
            display.line()
            for line in figures.lines():
                display.line(line)
            display.line(
                f"(JPEG: FFmpeg's encoder at quality {JPEG_QUANTISER} of 2 to 31, about libjpeg's 80)", style="dim"
            )
            if not figures.trained:
                display.warn("UNTRAINED model: the answers above mean nothing.")
            found.append(figures)

        run(options, display, done)
    typer.echo(orjson.dumps(found[0].document()).decode())
