"""`codecflow bench window`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecflow.bench.window_cost import POLICIES


def window(
    clips: Annotated[list[Path] | None, typer.Argument(metavar="CLIP...", help="Video files, any codec.")] = None,
    *,
    shape: Annotated[
        str, typer.Option(help="Sizes of the model, with random weights; --shape help lists them.")
    ] = "internvl-small",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="ID_OR_FOLDER",
            help="A checkpoint instead of a shape: an id on the Hugging Face hub, a folder, or codecflow-tiny, the trained"
            " demo model (needs codecflow[demo]).",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    policies: Annotated[str, typer.Option(help="Keep/refresh pairs, separated by commas.")] = POLICIES,
    streams: Annotated[str, typer.Option(help="Streams at once, separated by commas.")] = "1",
    fps: Annotated[str, typer.Option(help="Sampled frames a second.")] = "2",
    window_s: Annotated[str, typer.Option("--window", help="Seconds of a window.")] = "40",
    stride: Annotated[str, typer.Option(help="Seconds between windows.")] = "8",
    anchor: Annotated[str, typer.Option(help="Seconds between anchors.")] = "8",
    slides: Annotated[int, typer.Option(min=1, help="Windows to time, after the first full one.")] = 3,
    questions: Annotated[int, typer.Option(min=1, help="Questions asked of each window.")] = 1,
    save_masks: Annotated[
        Path | None, typer.Option(help="Write pictures and masks of the clips to a file, and end.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Read them from such a file instead of clips: no FFmpeg needed.")
    ] = None,
    profile: Annotated[
        bool, typer.Option(help="Also print where one slide's time goes, by kernel, on stderr.")
    ] = False,
) -> None:
    """FLOPs and time of a window under each keep and refresh policy, against everything from scratch."""
    from codecflow.bench.window_run import Options, run
    from codecflow.trained.named import checkpoint

    run(
        Options(
            clips=clips or [],
            shape=shape,
            model=model,
            dtype=dtype,
            device=device,
            policies=policies,
            streams=streams,
            fps=fps,
            window_s=window_s,
            stride_s=stride,
            anchor_s=anchor,
            slides=slides,
            questions=questions,
            save_masks=save_masks,
            masks=masks,
            profile=profile,
        ),
        lambda name: checkpoint(name, lambda line: typer.echo(f"codecflow: {line}", err=True)),
    )
