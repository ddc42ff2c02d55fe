"""How the page is, for probes and Prometheus: written in its event loop, read in the threads of the monitoring port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from codecflow.monitoring.metrics import PAGE_STREAMS, PAGE_VIDEO_BYTES, PAGE_VIEWERS, Sample
from codecflow.monitoring.server import Health

_BEAT_S = 0.5
_STUCK_S = 60.0
"""An event loop that has stood still for so long serves nobody."""


class PageHealth:
    """`clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._figures: Mapping[str, int] = {}
        self._beat_at: float | None = None
        self._ended = False

    async def follow(self, figures: Callable[[], Mapping[str, int]]) -> None:
        """In the event loop, as long as the page serves. `figures`: as Hub's."""
        try:
            while True:
                self.beat(figures())
                await asyncio.sleep(_BEAT_S)
        finally:
            self._ended = True

    def beat(self, figures: Mapping[str, int]) -> None:
        """The loop turns, and this is what is held now."""
        self._figures, self._beat_at = figures, self._clock()

    def health(self) -> Health:
        still_s = 0.0 if self._beat_at is None else self._clock() - self._beat_at
        stuck = f"the page has stood still for {still_s:.0f} s" if still_s > _STUCK_S and not self._ended else None
        started = self._beat_at is not None
        return Health(started, started and not self._ended, stuck)

    def samples(self) -> list[Sample]:
        """Nothing before the page serves."""
        figures = self._figures
        if not figures:
            return []
        return [
            Sample(PAGE_VIEWERS, figures["viewers"] - figures["replays"], ("live",)),
            Sample(PAGE_VIEWERS, figures["replays"], ("past",)),
            Sample(PAGE_STREAMS, figures["streams"]),
            Sample(PAGE_VIDEO_BYTES, figures["video_bytes"]),
        ]
