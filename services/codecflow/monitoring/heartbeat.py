"""Health of a service, from the iterations of its loop."""

from __future__ import annotations

import time
from collections.abc import Callable

from .server import Health


class Heartbeat:
    """`name`: of the loop, for people. A loop without an iteration for `stuck_s` seconds is stuck. `clock`: monotonic
    seconds."""

    def __init__(self, name: str, stuck_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._stuck_s, self._clock = name, stuck_s, clock
        self._beat_at: float | None = None
        self._ended = False

    def beat(self) -> None:
        """One iteration of the loop."""
        self._beat_at = self._clock()

    def end(self) -> None:
        """The loop ends cleanly."""
        self._ended = True

    def health(self, ready: bool = True) -> Health:
        """Started with the first beat; from then until the end ready, if `ready`."""
        still_s = 0.0 if self._beat_at is None else self._clock() - self._beat_at
        stuck = still_s > self._stuck_s and not self._ended
        started = self._beat_at is not None
        return Health(
            started,
            started and ready and not self._ended,
            f"{self._name} has stood still for {still_s:.0f} s" if stuck else None,
        )
