"""The demo model by its name."""

from __future__ import annotations

from collections.abc import Callable

NAME = "codecflow-tiny"
"""What --model takes for the trained demo model."""


def checkpoint(model: str, say: Callable[[str], None]) -> str:
    """`model`, a hub id or folder; for NAME the folder of the demo model, assembled in the cache when it is first asked for.

    `say` takes a line for people. Raises ModelError when it cannot be assembled.
    """
    if model != NAME:
        return model
    from codecflow.folders import cache_dir

    from .assemble import cached_checkpoint

    say(f"{NAME}: a small trained model; the first time, 180 MB are downloaded and it is assembled")
    return str(cached_checkpoint(cache_dir()))
