"""Closing what is open, and stopping a service cleanly: the first Ctrl-C or SIGTERM requests a stop, the second ends the
process at once."""

from __future__ import annotations

import os
import queue
import signal
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONE_S = 0.3
"""Signals within this time count as one: `timeout`, `make` and shells send it to the process and to its group."""


class Closing(ABC):
    """A context manager that is closed at the end of its context."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GracefulStop:
    """Context within which SIGINT and SIGTERM set a flag. Must be entered in the main thread.

    The loop checks `requested` between two pieces of work, or sleeps with `wait`. A second signal ends the process at once
    with the status of a process killed by that signal (128 + number): work in progress is lost as in a crash.
    """

    def __init__(self) -> None:
        # Not an Event: a handler that runs while `wait` holds the Event's lock would wait for it indefinitely.
        self._requested = False
        self._signalled_at = 0.0
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put is safe in a signal handler
        self._former: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> GracefulStop:
        self._former = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        return self._requested

    def request(self) -> None:
        """Requests the stop from within the program; may be called from any thread."""
        self._requested = True
        self._wake.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Sleeps until the stop is requested, at most `timeout_s` seconds. True if it was requested."""
        if not self._requested:
            with suppress(queue.Empty):
                self._wake.get(timeout=timeout_s)
        return self._requested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signalled_at and now > self._signalled_at + _ONE_S:
            os._exit(128 + number)
        self._signalled_at = self._signalled_at or now
        self.request()
