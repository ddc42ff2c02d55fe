"""Keeps a local broker from outliving its users. Run as a script, by path, with only the standard library.

    python guard.py PID_FILE OWNERS_LOCK BROKER_LOCK_FD COMMAND...

Starts COMMAND and ends it (SIGTERM, then SIGKILL) when no process holds a shared lock on OWNERS_LOCK any more. The kernel
releases a lock however its holder ends, SIGKILL included, so no owner can leave the broker behind. OWNERS_LOCK "-" means a
daemon: it runs until SIGTERM. PID_FILE then contains "owned" or "daemon", this process's id and COMMAND's. BROKER_LOCK_FD is
an open, locked file that this process and COMMAND keep open while they live: whoever can lock that file knows that no broker
runs."""

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from types import FrameType
from typing import NoReturn

POLL_S = 0.3
STOP_WITHIN_S = 20.0
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In the child: be killed when this guard is (Linux only; on other systems the broker outlives a killed guard)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def main(pid_file: str, owners_lock: str, broker_lock_fd: str, *command: str) -> int:
    kind = "daemon" if owners_lock == "-" else "owned"
    with open(pid_file, "w") as file:
        file.write(f"{kind} {os.getpid()}")
    stopping = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owners = None if owners_lock == "-" else os.open(owners_lock, os.O_RDWR | os.O_CREAT, 0o600)
    # One thread only: nothing holds a lock across the fork, and the parent-death signal, which is bound to the forking
    # thread, is bound to this process.
    child = subprocess.Popen(command, pass_fds=[int(broker_lock_fd)], preexec_fn=die_with_parent)  # noqa: PLW1509
    with open(pid_file, "a") as file:
        file.write(f" {child.pid}")
    while not stopping:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(POLL_S)
        if owners is not None:
            with contextlib.suppress(BlockingIOError):
                # Kept until exit: a newcomer that finds it taken knows that this broker is ending.
                fcntl.flock(owners, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stopping = True
    stop(child)
    return 0


def run() -> NoReturn:
    sys.exit(main(*sys.argv[1:]))


if __name__ == "__main__":
    run()
