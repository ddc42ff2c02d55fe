"""Folders to write to: where downloads are kept, and folders filled by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codecflow.errors import ConfigError


def cache_dir() -> Path:
    """CODECFLOW_CACHE, else codecflow/ in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    chosen = os.environ.get("CODECFLOW_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codecflow"


def make_folder(path: Path, *, private: bool = False) -> Path:
    """`path`, which is made with its parents where it is not there yet; `private`: only its owner may look into it.

    Raises ConfigError when it cannot be made, or not be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700 if private else 0o777, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {path}: cannot be made ({error.strerror})") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"folder {path}: cannot be written to")
    return path


@contextmanager
def alone_in(folder: Path, what: str) -> Iterator[None]:
    """In `folder`, made if need be, nobody else does `what` meanwhile: waits for others, in this process and in others.

    Raises ConfigError as `make_folder` does.
    """
    with (make_folder(folder) / f"{what}.lock").open("w") as lock:  # closed, however its holder ends, it is free
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
