"""The page's state, for probes and Prometheus: written in its event loop, read in the threads of the monitoring port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from codecflow.monitoring.heartbeat import Heartbeat
from codecflow.monitoring.metrics import PAGE_STREAMS, PAGE_VIDEO_BYTES, PAGE_VIEWERS, Sample
from codecflow.monitoring.server import Health

_BEAT_S = 0.5


class PageHealth:
    """`clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._figures: Mapping[str, int] = {}
        self._heartbeat = Heartbeat("the page", clock=clock)

    async def follow(self, figures: Callable[[], Mapping[str, int]]) -> None:
        """Runs in the event loop, as long as the page serves. `figures`: as Hub's."""
        try:
            while True:
                self.beat(figures())
                await asyncio.sleep(_BEAT_S)
        finally:
            self._heartbeat.end()

    def beat(self, figures: Mapping[str, int]) -> None:
        """The loop is running, with these figures."""
        self._figures = figures
        self._heartbeat.beat()

    def health(self) -> Health:
        return self._heartbeat.health()

    def samples(self) -> list[Sample]:
        """Empty before the page serves."""
        figures = self._figures
        if not figures:
            return []
        return [
            Sample(PAGE_VIEWERS, figures["viewers"] - figures["replays"], ("live",)),
            Sample(PAGE_VIEWERS, figures["replays"], ("past",)),
            Sample(PAGE_STREAMS, figures["streams"]),
            Sample(PAGE_VIDEO_BYTES, figures["video_bytes"]),
        ]
