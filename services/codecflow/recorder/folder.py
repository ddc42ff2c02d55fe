"""The folder that evidence lies in: names, files that appear whole, and what is removed when.

STREAM/2026-11-28/180053-f2bd3004b710c9a2.json   what happened, and which files show it
                                        .jpg    the picture at which the event opened
                                        .mp4    the clip; -2.mp4 ... where the camera was lost in between
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from codecflow.errors import ConfigError
from codecflow.messages import Event

_OWN = re.compile(r"(\d{6}-[0-9a-f]{16})(-\d{1,3})?\.(json|jpg|mp4)")
_PARTIAL = re.compile(r"\.\d{6}-[0-9a-f]{16}(-\d{1,3})?\.(json|jpg|mp4)\.part")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class Retention:
    """Events that began more than `days` days ago are removed, and the oldest ones beyond `nbytes` bytes in all. None: no
    limit."""

    days: float | None = None
    nbytes: int | None = None


class EvidenceFolder:
    """Files of events under `root`. Raises ConfigError where they cannot be written."""

    def __init__(self, root: Path, retention: Retention) -> None:
        self._root, self._retention = root, retention
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe = root / f".{os.getpid()}.part"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigError(f"{root}: cannot be written: {error.strerror}") from error

    def path(self, event: Event, suffix: str) -> Path:
        """Of one file of an event; its folder is there."""
        then = datetime.fromtimestamp(event.began_at_ms / 1000, UTC)
        # A stream may be called "..", and its id hold what some file systems do not take.
        stream = event.stream.replace(":", "_")
        folder = self._root / (f"_{stream}" if stream.startswith(".") else stream) / then.strftime("%Y-%m-%d")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from error
        return folder / f"{then:%H%M%S}-{event.id}{suffix}"

    def write(self, path: Path, data: bytes) -> None:
        """A file that is there whole or not at all."""
        partial = path.with_name(f".{path.name}.part")
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error

    def clean(self, now_s: float | None = None) -> int:
        """Remove what is kept no longer; how many events. Files of others are left alone."""
        now_s = time.time() if now_s is None else now_s
        groups: dict[tuple[str, str, str], list[tuple[Path, int]]] = {}
        for path, name in self._files():
            try:
                size = path.stat().st_size
            except OSError:
                continue
            groups.setdefault((path.parent.name, name, path.parent.parent.name), []).append((path, size))
        total = sum(size for files in groups.values() for _, size in files)
        removed = 0
        for key in sorted(groups):
            days, nbytes = self._retention.days, self._retention.nbytes
            began = datetime.strptime(f"{key[0]} {key[1][:6]}", "%Y-%m-%d %H%M%S").replace(tzinfo=UTC).timestamp()
            if not (days is not None and now_s - began > 86_400 * days) and not (nbytes is not None and total > nbytes):
                continue
            # The record last: as long as it is there, a run that was stopped in between is gone on with.
            for path, size in sorted(groups[key], key=lambda one: one[0].suffix == ".json"):
                path.unlink(missing_ok=True)
                total -= size
            removed += 1
        for folder in self._days():
            if not any(folder.iterdir()):
                folder.rmdir()
        return removed

    def _days(self) -> Iterator[Path]:
        for stream in self._root.iterdir():
            if stream.is_dir() and not stream.is_symlink():
                for day in list(stream.iterdir()):
                    if day.is_dir() and not day.is_symlink() and _DAY.fullmatch(day.name):
                        yield day

    def _files(self) -> Iterator[tuple[Path, str]]:
        """Files of events, each with the part of its name that all files of the event share."""
        for day in self._days():
            for path in day.iterdir():
                if path.is_file() and (match := _OWN.fullmatch(path.name)):
                    yield path, match[1]
                elif _PARTIAL.fullmatch(path.name) and path.stat().st_mtime < time.time() - 3600:
                    path.unlink(missing_ok=True)  # of a run that was killed
