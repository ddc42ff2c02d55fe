"""Detection of a worker that hangs."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from codecflow.monitoring.server import Health

STUCK = 6
"""Exit status of a worker that hangs."""


class StuckDetector:
    """Context manager. `beat` must be called at least every `after_s` seconds, and nothing that `busy` returns, as (what,
    since when in monotonic seconds), may last longer.

    Otherwise every thread's stack goes to stderr, once, one line to `notice`, and `health` is stuck from then on. Whatever
    lasts for another `after_s` seconds will not end by itself, such as a GPU that hangs: `end` ends the process with status
    6, so that another worker takes over and an orchestrator starts a new one.
    """

    def __init__(
        self,
        after_s: float,
        notice: Callable[[str], None],
        busy: Callable[[], Iterable[tuple[str, float]]] = lambda: (),
        health: Health | None = None,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._health = health or Health()
        self._after_s, self._notice, self._busy, self._end = after_s, notice, busy, end
        self._beat_at = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stuck-detector", daemon=True)

    def __enter__(self) -> StuckDetector:
        self._beat_at = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def beat(self) -> None:
        self._beat_at = time.monotonic()

    def _watch(self) -> None:
        dumped = False
        while not self._over.wait(self._after_s / 4):
            now = time.monotonic()
            for what, since in [("the worker's loop", self._beat_at), *self._busy()]:
                lasts_s = now - since
                if lasts_s > self._after_s and not dumped:
                    dumped = True
                    self._health.stuck = f"{what} has not finished for {lasts_s:.0f} s"
                    self._notice(f"{self._health.stuck}; the stacks of all threads follow")
                    faulthandler.dump_traceback(all_threads=True)
                if lasts_s > 2 * self._after_s:
                    self._notice(f"{what} has not finished for {lasts_s:.0f} s; ending, so that others take over")
                    self._end(STUCK)
                    return
