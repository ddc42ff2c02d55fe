"""A loop that no longer turns says where it is stuck."""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable
from types import TracebackType


class StuckDetector:
    """Context within which `beat` is to be called at least every `after_s` seconds.

    Otherwise every thread's stack goes to stderr, once, and one line to `say`.
    """

    def __init__(self, after_s: float, say: Callable[[str], None]) -> None:
        self._after_s, self._say = after_s, say
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
        while not self._over.wait(self._after_s / 4):
            silent_s = time.monotonic() - self._beat_at
            if silent_s > self._after_s:
                self._say(f"the worker's loop has not turned for {silent_s:.0f} s; the stacks of its threads follow")
                faulthandler.dump_traceback(all_threads=True)
                return
