"""The services of a demo: CodecFlow's own commands as processes that never outlive it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from codecflow.errors import CodecFlowError

STOP_WITHIN_S = 20.0
"""Maximum time for a service to stop cleanly before it is killed."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class ServiceError(CodecFlowError):
    """A service of the demo failed; the text is its own last line."""


class Children:
    """Commands of `codecflow`, run with `environment` added to this one; their stderr is kept in `folder`.

    Leaving the context ends those still running: SIGTERM, newest first, then SIGKILL.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *command: str) -> IO[bytes]:
        """Starts `codecflow command...`, named by its first word; returns its standard output."""
        name = command[0]
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "codecflow", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # a Ctrl-C in the terminal is for the demo, which stops them in order
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, its library loaded before the fork
            )
        self._running[name] = process
        assert process.stdout is not None
        return process.stdout

    def check(self) -> None:
        """Raises ServiceError when one has failed; one that exited successfully is no longer checked."""
        for name in list(self._running):
            if (words := self.failure(name)) is not None:
                raise ServiceError(f"codecflow {name} failed: {words}")

    def failure(self, name: str) -> str | None:
        """The last line of one that has failed; None while it runs and after a successful exit. Reported once."""
        process = self._running.get(name)
        status = None if process is None else process.poll()
        if status is not None:
            del self._running[name]
        return self._last_words(name, status) if status else None

    def runs(self, name: str) -> bool:
        return name in self._running and self._running[name].poll() is None

    def stop(self, name: str) -> None:
        """Stops one cleanly and waits for it. Raises ServiceError when that fails."""
        if self.runs(name):
            self._running[name].terminate()
            self._wait(self._running[name])
        self.check()

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(list(self._running.values())):
            if process.poll() is None:
                process.terminate()
        for process in self._running.values():
            self._wait(process)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _last_words(self, name: str, status: int) -> str:
        lines = [line for line in self._log(name).read_text(errors="replace").splitlines() if line.strip()]
        own = [line for line in lines if line.startswith("codecflow: ")] or lines
        if own:
            return own[-1].strip().removeprefix("codecflow: ")
        return f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"


def _end_with_parent() -> None:
    """In the child: requests a signal for when the demo ends, whatever the reason (Linux only)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
