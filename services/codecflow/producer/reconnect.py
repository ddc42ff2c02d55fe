"""Reconnecting to a lost camera, at a pace that does not harm it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from codecflow.codec.reader import StoppedError
from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.lifecycle import GracefulStop

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Pauses double from the first to the longest, and start again at the first once a camera has played for the longest."""

AUTH_PAUSES_S = (60.0, 300.0, 900.0)
"""Pauses after a camera refused user or password: it may just be starting, but many attempts lock the account."""

_HOUR_S = 3600.0


class Reconnects:
    """Reconnects to a camera, with exponential backoff. `count`: successful reconnects.

    `open_source` opens it; `notice` is called with a line for people.
    """

    def __init__(self, open_source: Callable[[], Source], stop: GracefulStop, notice: Callable[[str], None]) -> None:
        self.count = 0
        self._open, self._stop, self._notice = open_source, stop, notice
        self._recent: deque[float] = deque()
        self._pause: float | None = None
        self._opened = time.monotonic()

    def again(self, error: SourceError) -> Source | None:
        """The camera, opened again after `error`; None when the run is to stop.

        Raises SourceError when the camera keeps refusing user and password, and after an abort in FFmpeg: what that has left
        behind, such as the connection, goes only with the process.
        """
        if self._pause is None or time.monotonic() - self._opened >= LONGEST_PAUSE_S:
            self._pause = FIRST_PAUSE_S
        refused = 0
        while True:
            if error.code == "aborted":
                raise error
            if error.code == "auth":
                if refused == len(AUTH_PAUSES_S):
                    raise SourceError(
                        f"{error}; refused {refused + 1} times; not retried, since many cameras lock the account",
                        "auth",
                    )
                pause = AUTH_PAUSES_S[refused]
                refused += 1
            else:
                refused = 0
                pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE_S)
            self._notice(f"{error}; reconnecting in {pause:.3g} s ({self._in_last_hour()} reconnects in the last hour)")
            if self._stop.wait(pause):
                return None
            try:
                source = self._open()
            except SourceError as failed:
                error = failed
            except StoppedError:
                return None
            else:
                self.count += 1
                self._opened = time.monotonic()
                self._recent.append(self._opened)
                self._notice(f"source {source.name}: reconnected")
                return source

    def _in_last_hour(self) -> int:
        while self._recent and self._recent[0] < time.monotonic() - _HOUR_S:
            self._recent.popleft()
        return len(self._recent)
