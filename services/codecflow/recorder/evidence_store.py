"""The files of events, in a folder or an fsspec storage, and their retention.

STREAM/2026-11-28/180053-f2bd3004b710c9a2.json   what happened, and which files show it
                                        .jpg    the picture at which the event opened
                                        .mp4    the clip; -2.mp4 ... where the camera was lost in between
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from codecflow.messages import Event
from codecflow.storage import Storage
from codecflow.subscriber.evidence import evidence_name

_OWN = re.compile(r"([^/]+)/(\d{4}-\d\d-\d\d)/(\d{6}-[0-9a-f]{16})(-\d{1,3})?\.(json|jpg|mp4)")


@dataclass(frozen=True, slots=True)
class Retention:
    """Events that began more than `days` days ago are removed, as are the oldest ones beyond `nbytes` bytes in total. None:
    no limit."""

    days: float | None = None
    nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """What is stored: events, and the total bytes of their files; `removed` events in this pass."""

    events: int
    nbytes: int
    removed: int


class EvidenceStore:
    """Files of events in `storage`. Methods raise StorageError."""

    def __init__(self, storage: Storage, retention: Retention) -> None:
        self.storage, self._retention = storage, retention

    def clips(self, event: Event) -> list[str]:
        """Names of the existing clips, without their folder."""
        folder, _, stem = evidence_name(event).rpartition("/")
        names = (one.name.rpartition("/")[2] for one in self.storage.files(folder))
        # The first has no number.
        return sorted(
            (name for name in names if name.startswith(stem) and name.endswith(".mp4")), key=lambda n: (len(n), n)
        )

    def clean(self, now_s: float | None = None) -> StoredEvidence:
        """Remove expired evidence. Other files are left alone."""
        now_s = time.time() if now_s is None else now_s
        events: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
        for file in self.storage.files():
            if match := _OWN.fullmatch(file.name):
                events.setdefault((match[2], match[3], match[1]), []).append((file.name, file.nbytes))
        total = sum(nbytes for files in events.values() for _, nbytes in files)
        removed = 0
        for key in sorted(events):
            days, max_bytes = self._retention.days, self._retention.nbytes
            try:
                began = datetime.strptime(f"{key[0]} {key[1][:6]}", "%Y-%m-%d %H%M%S").replace(tzinfo=UTC).timestamp()
            except ValueError:
                continue  # not ours
            if not (days is not None and now_s - began > 86_400 * days) and not (
                max_bytes is not None and total > max_bytes
            ):
                continue
            # The record last: as long as it exists, the next pass continues one that was interrupted.
            for name, nbytes in sorted(events[key], key=lambda one: one[0].endswith(".json")):
                self.storage.remove(name)
                total -= nbytes
            removed += 1
        self.storage.tidy()
        return StoredEvidence(len(events) - removed, total, removed)
