"""`codecflow model`: making checkpoints."""

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
