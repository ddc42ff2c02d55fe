"""The recorder's state, for probes and Prometheus: written in its loop, read in the threads of the monitoring port."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from codecflow.monitoring.heartbeat import Heartbeat
from codecflow.monitoring.metrics import (
    RECORDER_BYTES,
    RECORDER_CHANGES,
    RECORDER_EVENTS,
    RECORDER_FAILING,
    RECORDER_REMOVED,
    Sample,
)
from codecflow.monitoring.server import Health

from .evidence_store import StoredEvidence

_STUCK_S = 600.0
"""Longer than it takes to cut the longest clip."""


@dataclass(slots=True)
class RecorderFigures:
    """`changes` of events, by outcome. `failing_since`: monotonic seconds since which the storage rejects files; None while
    it works. `assigned`: the group has assigned partitions to it."""

    heartbeat: Heartbeat = field(default_factory=lambda: Heartbeat("the recorder's loop", _STUCK_S))
    changes: Counter[str] = field(default_factory=Counter)
    removed: int = 0
    stored: StoredEvidence = field(default_factory=lambda: StoredEvidence(0, 0, 0))
    failing_since: float | None = None
    assigned: bool = False

    def health(self) -> Health:
        return self.heartbeat.health(self.assigned and self.failing_since is None)

    def samples(self) -> list[Sample]:
        since = self.failing_since
        return [
            *(Sample(RECORDER_CHANGES, self.changes[one], (one,)) for one in ("complete", "incomplete")),
            Sample(RECORDER_EVENTS, self.stored.events),
            Sample(RECORDER_BYTES, self.stored.nbytes),
            Sample(RECORDER_REMOVED, self.removed),
            Sample(RECORDER_FAILING, 0.0 if since is None else time.monotonic() - since),
        ]
