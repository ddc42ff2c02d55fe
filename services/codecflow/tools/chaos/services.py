"""CodecFlow's own commands as processes that can be killed, and that are restarted like by an orchestrator."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

# Forked from a process that has imported torch and transformers already, which dominates the start time.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["codecflow.vlm.loading", "codecflow.vlm.engine", "codecflow.worker.service", "codecflow.producer.run"]
)

_STARTING = threading.Lock()

END_WITHIN_S = 150.0
"""Maximum time for a service to stop after the request: two minutes without brokers, plus work in progress."""


class Service:
    """`codecflow arguments...` as a process; `log`: its output. It is restarted after it was killed, and after it exited
    with a status other than 0 (`failures`), like by an orchestrator."""

    def __init__(self, name: str, folder: Path, *arguments: str) -> None:
        self.name, self.arguments = name, list(arguments)
        self.log = folder / f"{name}.log"
        self.failures: list[int] = []
        self.starts = 0
        self._process: BaseProcess | None = None
        self._terminating = self._killed = False
        self._start_at = 0.0
        self._polling = threading.Lock()

    def start(self) -> None:
        process = _FORKS.Process(target=_run_command, args=([*self.arguments], self.log), name=self.name)
        with _STARTING:
            process.start()
        self._process = process
        self.starts += 1
        self._terminating = self._killed = False

    @property
    def running(self) -> bool:
        # The status of a process can be read once: of two threads that asked at the same time, one would get 255.
        with self._polling:
            return self._process is not None and self._process.is_alive()

    def watch(self) -> None:
        """Restarts it if it has ended without a request."""
        if self._process is None or self.running:
            return
        if self._start_at == 0.0:
            if self._terminating:
                return
            if not self._killed:
                self.failures.append(self._process.exitcode or 0)
            self._start_at = time.monotonic() + 1.0
        elif time.monotonic() >= self._start_at:
            self._start_at = 0.0
            self.start()

    def kill(self) -> None:
        self._killed = True
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Requests a stop like the first SIGTERM."""
        self._terminating, self._start_at = True, 0.0
        self._signal(signal.SIGTERM)

    def end(self, within_s: float = END_WITHIN_S) -> int | None:
        """Its exit status after a requested stop; None, and killed, if it takes too long."""
        assert self._process is not None
        if not self._ended(within_s):
            self.close()
            return None
        return self._process.exitcode

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._ended(END_WITHIN_S)

    def _ended(self, within_s: float) -> bool:
        """Whether it has ended by then."""
        deadline = time.monotonic() + within_s
        while self.running:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def traceback(self) -> bool:
        return self.log.exists() and "Traceback (most recent call last)" in self.log.read_text(errors="replace")

    def last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.pid is not None and self.running:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _run_command(arguments: list[str], log: Path) -> None:
    """Runs in the forked process."""
    os.setpgid(0, 0)  # a Ctrl-C in the terminal is for the chaos run itself
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    print(f"--- codecflow {' '.join(arguments)}")
    sys.argv = ["codecflow", *arguments]
    from codecflow.cli.app import main

    main()
