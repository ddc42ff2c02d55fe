"""The state of notifications, for probes and Prometheus: written in the sinks' threads, read in those of the monitoring
port."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from codecflow.monitoring.heartbeat import Heartbeat
from codecflow.monitoring.metrics import NOTIFY_DELIVERIES, NOTIFY_FAILING, NOTIFY_FAILURES, Sample
from codecflow.monitoring.server import Health

_STUCK_S = 900.0
"""Longer than the longest pause, the longest time-out and the time limit for brokers that are down together."""


@dataclass(slots=True)
class SinkFigures:
    """`outcomes`: delivered, refused. `failures`: failed attempts. `failing_since`: monotonic seconds since which the next
    change could not be delivered; None otherwise. `following`: its position is known."""

    name: str
    heartbeat: Heartbeat = field(init=False)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    failing_since: float | None = None
    following: bool = False

    def __post_init__(self) -> None:
        self.heartbeat = Heartbeat(f"sink {self.name!r}", _STUCK_S)


class NotifierFigures:
    """Figures of all sinks. A failing sink does not make the service unready: its own metrics show it."""

    def __init__(self, names: Iterable[str]) -> None:
        self.sinks = {name: SinkFigures(name) for name in names}

    def health(self) -> Health:
        found = [one.heartbeat.health(one.following) for one in self.sinks.values()]
        stuck = next((one.stuck for one in found if one.stuck is not None), None)
        return Health(all(one.started for one in found), all(one.ready for one in found), stuck)

    def samples(self) -> list[Sample]:
        samples = []
        for name, one in self.sinks.items():
            since = one.failing_since
            samples += [
                *(Sample(NOTIFY_DELIVERIES, one.outcomes[what], (name, what)) for what in ("delivered", "refused")),
                Sample(NOTIFY_FAILURES, one.failures, (name,)),
                Sample(NOTIFY_FAILING, 0.0 if since is None else time.monotonic() - since, (name,)),
            ]
        return samples
