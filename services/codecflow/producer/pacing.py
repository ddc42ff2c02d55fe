"""Real time for files: each picture when its decoding time has come, as a camera would send it."""

from __future__ import annotations

import time

from codecflow.lifecycle import GracefulStop
from codecflow.messages import CodedPicture

LONGEST_PAUSE_S = 60.0
"""A gap in a file's times is not waited for any longer than this. Its times stay as they are."""


class Pacer:
    """Holds pictures back to the pace of their own times. Starts with the first picture."""

    def __init__(self, stop: GracefulStop) -> None:
        self._stop = stop
        self._began: float | None = None
        self._first_s = 0.0

    def wait(self, picture: CodedPicture) -> None:
        """Returns when `picture` is due, or at once when the run is to stop."""
        due_s = float((picture.pts if picture.dts is None else picture.dts) * picture.time_base)
        now = time.monotonic()
        if self._began is None:
            self._began, self._first_s = now, due_s
        ahead = self._began + due_s - self._first_s - now
        if ahead > LONGEST_PAUSE_S:
            self._began -= ahead - LONGEST_PAUSE_S
            ahead = LONGEST_PAUSE_S
        if ahead > 0:
            self._stop.wait(ahead)
