"""Where downloads are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """CODECFLOW_CACHE, else codecflow/ in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    chosen = os.environ.get("CODECFLOW_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codecflow"
