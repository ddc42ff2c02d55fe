"""A thread for blocking calls, so that the caller can stop within a moment.

FFmpeg's calls block as long as a host is silent, some of them (name look-up, a pipe) beyond FFmpeg's own time-out; a Kafka
client's calls block until brokers answer. The thread makes them; the caller waits with its own time-out and meanwhile checks
whether it should stop.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from .aborts import aborts_reported

AHEAD = 256
"""How many items the thread may be ahead of its caller; then it waits, and the host with it."""

_ASK_EVERY_S = 0.05
_LINGER_S = 0.1

T = TypeVar("T")


class StoppedError(Exception):
    """The caller is to stop, so waiting was cancelled."""


class SilentError(Exception):
    """Nothing came within the time-out."""


class AbortedError(Exception):
    """The call ended in abort(), as FFmpeg's do when one of its assertions fails. The thread takes no further calls."""


class Reader:
    """Runs one call or iteration at a time in its own thread.

    `stopped`: called every 50 ms while the caller waits. The thread ends after `close`, or with the program.
    """

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._results: queue.Queue[tuple[str, Any]] = queue.Queue(AHEAD)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reader", daemon=True)
        self._thread.start()

    def call(self, job: Callable[[], T], timeout_s: float) -> T:
        """The result of `job`, or its exception. Raises StoppedError, SilentError after `timeout_s`, or AbortedError."""

        def answer() -> None:
            self._put("item", job())

        self._jobs.put(answer)
        return cast(T, self._next(timeout_s)[1])

    def iterate(self, items: Callable[[], Iterator[T]], timeout_s: float) -> Iterator[T]:
        """The items as they arrive. Raises their exception, StoppedError, SilentError when none came for `timeout_s`, or
        AbortedError."""

        def job() -> None:
            for item in items():
                if not self._put("item", item):
                    return
            self._put("end", None)

        self._jobs.put(job)
        while True:
            kind, item = self._next(timeout_s)
            if kind == "end":
                return
            yield item

    def close(self, last: Callable[[], None]) -> None:
        """End the thread, which calls `last` after its current call. Waits only briefly."""
        self._closing.set()
        self._jobs.put(last)
        self._jobs.put(None)
        self._thread.join(_LINGER_S)

    def _next(self, timeout_s: float) -> tuple[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            if self._stopped():
                raise StoppedError
            try:
                result = self._results.get(timeout=_ASK_EVERY_S)
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise SilentError from None
                continue
            if result[0] == "error":
                raise result[1]
            return result

    def _work(self) -> None:
        with aborts_reported(lambda: self._put("error", AbortedError())):
            for job in iter(self._jobs.get, None):
                try:
                    job()
                except Exception as error:  # noqa: BLE001  # whatever it is, it is the caller's
                    self._put("error", error)

    def _put(self, kind: str, item: object) -> bool:
        """Pass `item` to the caller; False when the caller is gone."""
        while not self._closing.is_set():
            try:
                self._results.put((kind, item), timeout=_ASK_EVERY_S)
            except queue.Full:
                continue
            return True
        return False
