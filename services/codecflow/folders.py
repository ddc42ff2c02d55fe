"""Folders that a user names, to write to."""

from __future__ import annotations

import os
from pathlib import Path

from codecflow.errors import ConfigError


def make_folder(path: Path) -> Path:
    """`path`, which is made with its parents where it is not there yet.

    Raises ConfigError when it cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {path}: cannot be made ({error.strerror})") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"folder {path}: cannot be written to")
    return path
