"""Lanes: each stream's place in a sampler pool. A lane keeps events until its process has answered for them."""

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
"""A stream's share of a process is known once it was open for this long."""
_RETRY_S = (1, 64)
"""How long a stream is set aside after its picture has ended a process, at first and at most."""


class Lane:
    """One stream's place in a pool. `held_bytes`: sampled frames in its open window. `queued_bytes`: what waits to be
    sampled."""

    def __init__(
        self, number: int, stream: str, state: StreamState | None, zones: tuple[Zone, ...], member: Member
    ) -> None:
        self.stream = stream
        self.queued_bytes = 0
        self.held_bytes = 0
        self.unfinished = 0
        """Events that were pushed, and whose outcome was not taken from the pool yet. Its owner's to read."""
        self.closed = False
        self.number, self.member = number, member
        self.waiting: deque[tuple[Event, int]] = deque()
        self.given: deque[tuple[Event, int]] = deque()
        """To its process, which has not answered for them yet."""
        self.given_bytes = 0
        self.done = 0
        """Events that the process has answered for, since the lane was opened there."""
        self.state = state
        """After the newest step."""
        self.thin = False
        self.zones = zones
        """The newest that its sampler was told of."""
        self.trouble: ResultError | None = None
        self.cpu_s = 0.0
        self.opened_at = time.monotonic()
        self.recovery: Recovery | None = None
        self._failures = 0
        self._failed_at = 0.0

    def opening(self) -> Open:
        return Open(self.number, self.stream, self.state, self.recovery, self.zones)

    def fails(self, how: str) -> bool:
        """It was at work when its process ended. Whether that is its fault: not if the process was killed from outside, as
        by a system that is out of memory, unless that happens again."""
        now = time.monotonic()
        if now > self._failed_at + 2 * _RETRY_S[1]:
            self._failures = 0
        self._failures, self._failed_at = self._failures + 1, now
        return how != "SIGKILL" or self._failures > 1

    @property
    def retry_s(self) -> Fraction:
        """How long it is set aside for."""
        return Fraction(min(_RETRY_S[0] << min(self._failures - 1, 10), _RETRY_S[1]))

    def cost(self, now: float) -> float | None:
        """CPU seconds per second; None while that is not known."""
        since = now - self.opened_at
        return self.cpu_s / since if since > _KNOWN_AFTER_S else None
