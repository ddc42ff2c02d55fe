"""What the demo shows while it runs: lines that stay, and a status line that renews itself."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console

PLAIN_EVERY_S = 5.0
"""How often the status is told where standard error is no terminal."""


class Display:
    """Lines on standard output; the status on standard error, live on a terminal, else a plain line now and then."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, soft_wrap=True, markup=False)
        self._error = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._live = self._error.status("") if self._error.is_terminal else None
        self._told = ("", time.monotonic())

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def line(self, text: str = "", style: str | None = None) -> None:
        self._out.print(text, style=style)

    def warn(self, text: str) -> None:
        self._out.print(text, style="bold yellow")

    def status(self, text: str) -> None:
        if self._live:
            self._live.update(text)
            return
        before, at = self._told
        if text != before and time.monotonic() - at >= PLAIN_EVERY_S:
            self._told = (text, time.monotonic())
            self._error.print(text)
