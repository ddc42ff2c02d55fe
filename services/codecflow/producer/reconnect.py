"""Finding a lost camera again, at a pace that does it no harm."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.lifecycle import GracefulStop

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
_HOUR_S = 3600.0


class Reconnects:
    """Opens a camera again until it answers. `count`: how often that worked."""

    def __init__(self, stop: GracefulStop) -> None:
        self.count = 0
        self._stop = stop
        self._recent: deque[float] = deque()

    def again(self, url: str, timeout_s: float, error: SourceError, notice: Callable[[str], None]) -> Source | None:
        """The camera, opened anew; None when the run is to stop. Pauses double from 1 s to 30 s while it is away."""
        pause = FIRST_PAUSE_S
        while True:
            notice(f"{error}; trying again in {pause:.0f} s ({self._in_last_hour()} reconnects in the last hour)")
            if self._stop.wait(pause):
                return None
            pause = min(2 * pause, LONGEST_PAUSE_S)
            try:
                source = Source(url, timeout_s=timeout_s)
            except SourceError as failed:
                error = failed
            else:
                self.count += 1
                self._recent.append(time.monotonic())
                notice(f"source {source.name}: found again")
                return source

    def _in_last_hour(self) -> int:
        while self._recent and self._recent[0] < time.monotonic() - _HOUR_S:
            self._recent.popleft()
        return len(self._recent)
