"""The process that forks sampler processes, after importing what they need.

    python -m codecflow.worker.sampler_host CONTROL_FD

Importing torch takes seconds and 300 MB per process; forked processes share it. The worker itself cannot fork: it has
threads, and perhaps a GPU. This process has one thread and does nothing else.

Nothing outlives the worker, however it ends: the control socket closes with it, this process exits, and the kernel kills the
forked processes. Signals from the terminal and service managers are for the worker, which ends all of this itself.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from codecflow import logs
from codecflow.errors import CodecFlowError, ConfigError

from .channel import Channel
from .sampler_process import Progress, serve

_PR_SET_PDEATHSIG = 1
_STOP_S = 5.0


class SamplersError(CodecFlowError):
    """Sampler processes cannot be started."""


class SamplerProcess:
    """A sampler process, as seen by its worker. `channel`: the connection to it; `notes`: a file that becomes readable when
    the process has started or ended."""

    def __init__(self, channel: Channel, progress: mmap.mmap, notes: int) -> None:
        self.channel, self.notes = channel, notes
        self._memory, self._progress = progress, Progress(progress)
        self._notes_read = b""
        self._ended: str | None = None

    @property
    def pid(self) -> int | None:
        """None until it runs, and once it has ended."""
        self._listen()
        first, line, _ = self._notes_read.partition(b"\n")
        return int(first) if line and self._ended is None else None

    @property
    def ended(self) -> str | None:
        """Why it has ended: a signal's name, `exit status N` or `lost`. None while it runs or is starting."""
        self._listen()
        return self._ended

    @property
    def progress(self) -> tuple[int, int, float]:
        """As Progress.read."""
        return self._progress.read()

    def kill(self) -> None:
        if (pid := self.pid) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        self.channel.close()
        self.kill()
        os.close(self.notes)
        self._memory.close()

    def _listen(self) -> None:
        """Its notes: the process id, then how it ended."""
        while self._ended is None:
            try:
                note = os.read(self.notes, 64)
            except BlockingIOError:
                return
            self._notes_read += note
            *_, last = self._notes_read.split(b"\n")
            if not note:
                self._ended = last.decode() or "lost"


class _Host:
    """The forking process and the connection to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._control, theirs = socket.socketpair()
        paths = [path or os.getcwd() for path in sys.path]
        self._process = subprocess.Popen(
            # -P: do not import modules from the working directory.
            [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        atexit.register(self.close)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self) -> SamplerProcess:
        channel, theirs = Channel.pair()
        file = os.memfd_create("codecflow-progress")
        os.ftruncate(file, Progress.SIZE)
        notes, to_notes = os.pipe()
        os.set_blocking(notes, False)
        try:
            socket.send_fds(self._control, [b"+"], [theirs.fileno(), file, to_notes])
        except OSError as error:
            channel.close()
            os.close(notes)
            raise SamplersError(f"sampler processes cannot be started: {error.strerror}") from error
        finally:
            progress = mmap.mmap(file, Progress.SIZE)
            theirs.close()
            os.close(file)
            os.close(to_notes)
        return SamplerProcess(channel, progress, notes)

    def close(self) -> None:
        self._control.close()
        if os.getpid() == self.owner:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)


_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Each process computes in one thread, next to those of the other streams; a process with several threads could not fork."""

_lock = threading.Lock()
_host: _Host | None = None


def prepare() -> None:
    """Starts to import what sampler processes need, so that they start without delay later."""
    _current()


def start() -> SamplerProcess:
    """A new sampler process. Does not wait for it. Raises SamplersError."""
    return _current().start()


def _current() -> _Host:
    """One host for all workers of this process."""
    global _host  # noqa: PLW0603
    with _lock:
        if _host is None or _host.owner != os.getpid() or not _host.alive:
            _host = _Host()
        return _host


def _log_to_stderr() -> None:
    """As in the command, which has read the settings."""
    with suppress(ConfigError):
        logs.configure()


def _main(control: socket.socket) -> int:
    _log_to_stderr()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, shared pages
    notes: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), wake], [], [])
        if wake in ready:
            with suppress(BlockingIOError):
                os.read(wake, 4096)
            _reap(notes)
        if control.fileno() in ready:
            command, files, _, _ = socket.recv_fds(control, 1, 3)
            if not command:
                return 0
            own = os.getpid()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for file in (control.fileno(), wake, woken, *notes.values(), files[2]):
                    os.close(file)
                _sample(own, files[0], files[1])
            with suppress(OSError):  # nobody is listening any more
                os.write(files[2], b"%d\n" % pid)
            notes[pid] = files[2]
            os.close(files[0])
            os.close(files[1])


def _reap(notes: dict[int, int]) -> None:
    """Report how each terminated child ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        file = notes.pop(pid)
        with suppress(OSError):
            os.write(file, how.encode())
        os.close(file)


def _sample(parent: int, channel: int, progress: int) -> NoReturn:
    """Runs in the child."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            memory = mmap.mmap(progress, Progress.SIZE)
            os.close(progress)
            serve(Channel(socket.socket(fileno=channel)), Progress(memory))
            code = 0
    except BaseException:  # noqa: BLE001  # whatever it is, nothing of the parent may run in this process
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(_main(socket.socket(fileno=int(sys.argv[1]))))
