"""Stream queues: the events of each stream in a sampler pool. A queue keeps events until its process has acknowledged
them."""

from __future__ import annotations

import time
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING

from codecflow.messages import ResultError, StreamState, Zone

from .sampler_events import Event, Recovery
from .sampler_process import Open

if TYPE_CHECKING:
    from .pool_member import Member

_KNOWN_AFTER_S = 5.0
"""Minimum time for which a stream must be open before its share of a process is known."""
_RETRY_S = (1, 64)
"""How long a stream is set aside after its picture has crashed a process, initially and at most."""


class StreamQueue:
    """One stream's place in a pool. `held_bytes`: sampled frames in its open window. `queued_bytes`: what waits to be
    sampled."""

    def __init__(
        self, number: int, stream: str, state: StreamState | None, zones: tuple[Zone, ...], member: Member
    ) -> None:
        self.stream = stream
        self.queued_bytes = 0
        self.held_bytes = 0
        self.unfinished = 0
        """Events pushed whose outcome was not taken from the pool yet. For the owner to read."""
        self.closed = False
        self.number, self.member = number, member
        self.waiting: deque[tuple[Event, int]] = deque()
        self.sent: deque[tuple[Event, int]] = deque()
        """Events sent to its process and not acknowledged yet."""
        self.sent_bytes = 0
        self.done = 0
        """Events acknowledged by the process since the queue was opened there."""
        self.state = state
        """Offsets after the newest step."""
        self.thin = False
        self.zones = zones
        """The newest zones passed to its sampler."""
        self.trouble: ResultError | None = None
        self.cpu_s = 0.0
        self.opened_at = time.monotonic()
        self.recovery: Recovery | None = None
        self._failures = 0
        self._failed_at = 0.0

    def opening(self) -> Open:
        return Open(self.number, self.stream, self.state, self.recovery, self.zones)

    def fails(self, how: str) -> bool:
        """It was being processed when its process ended. Returns whether it is to blame: not if the process was killed from
        outside, for example by the OOM killer, unless that happens again."""
        now = time.monotonic()
        if now > self._failed_at + 2 * _RETRY_S[1]:
            self._failures = 0
        self._failures, self._failed_at = self._failures + 1, now
        return how != "SIGKILL" or self._failures > 1

    @property
    def retry_s(self) -> Fraction:
        """How long it is set aside."""
        return Fraction(min(_RETRY_S[0] << min(self._failures - 1, 10), _RETRY_S[1]))

    def cost(self, now: float) -> float | None:
        """CPU seconds per second; None while unknown."""
        since = now - self.opened_at
        return self.cpu_s / since if since > _KNOWN_AFTER_S else None
