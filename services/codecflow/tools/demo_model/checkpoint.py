"""The demo model's folder in the cache: located without torch, assembled on first use."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from codecflow.errors import ModelError
from codecflow.folders import alone_in, cache_dir

NAME = "codecflow-tiny"
"""The --model value of the trained demo model."""

LAYOUT = 2
"""Version of `build_checkpoint`'s output: increase it on changes, so that older folders in caches are not used."""

REPOSITORY_PART = Path(__file__).parents[4] / "models" / "codecflow-tiny" / "trained.safetensors"


def checkpoint(model: str, notice: Callable[[str], None]) -> str:
    """`model`, a hub id or folder; for NAME the folder of the demo model, assembled in the cache on first use.

    `notice` is called with a line for people before it is. Raises ModelError when it cannot be assembled.
    """
    if model != NAME:
        return model
    return str(cached_checkpoint(cache_dir(), notice))


def cached_checkpoint(cache: Path, notice: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of this repository's codecflow-tiny in `cache`, built if it does not exist. Raises ModelError and
    ConfigError."""
    if not REPOSITORY_PART.exists():
        raise ModelError(
            f"{NAME}: {REPOSITORY_PART} is missing; only a clone of the repository has it: `pip install -e` there"
        )
    digest = hashlib.sha256(REPOSITORY_PART.read_bytes()).hexdigest()
    folder = cache / f"codecflow-tiny-{digest[:12]}-{LAYOUT}"
    if not folder.exists():
        with alone_in(cache, "codecflow-tiny"):
            if not folder.exists():  # no other process was faster
                notice(f"{NAME}: downloading 180 MB and assembling the model (only the first time)")
                from .assemble import build_checkpoint

                with tempfile.TemporaryDirectory(dir=cache) as scratch:  # atomic
                    build_checkpoint(Path(scratch) / "built", None, cache)
                    (Path(scratch) / "built").rename(folder)
    return folder
