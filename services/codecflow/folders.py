"""Folders to write to: the download cache, and folders that one process at a time may fill."""

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
    """Creates `path` and its parents if needed and returns it; `private`: only its owner may access it.

    Raises ConfigError when it cannot be created or is not writable.
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
    """Holds an exclusive lock for `what` in `folder`, which is created if needed. Waits for other threads and processes.

    Raises ConfigError as `make_folder` does.
    """
    with (make_folder(folder) / f"{what}.lock").open("w") as lock:  # released on close, however the process ends
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
