"""A real Apache Kafka on this machine: one node, KRaft, installed with pip alone (the extra `codecflow[local]`).

`LocalKafka` runs one for as long as a program needs it (tests, demo); `start_daemon`, `stop` and `status` implement
`codecflow kafka`. A guard process (`guard.py`) in between ends the broker when its last owner is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from codecflow.errors import ConfigError, KafkaError

from . import guard
from .distribution import Progress
from .files import BrokerFiles, topic_bytes
from .launch import POLL_S, READY_WITHIN_S, Broker, start, wait_ready


def silent(line: str) -> None:
    """No progress lines."""


class LocalKafka:
    """A broker that runs while this context is entered, in `data_dir` or, without one, in a folder removed afterwards.

    Several programs may enter with the same `data_dir`: the first starts the broker, the last one out ends it, also if all
    of them are killed. A daemon found running there is used and left running. `port` as in `start_daemon`. `properties`: the
    broker's, in addition to or instead of ours, if this one starts it.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        port: int | None = 0,
        progress: Progress = silent,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self._temporary = data_dir is None
        self.data_dir = data_dir or Path(tempfile.gettempdir()) / f"codecflow-kafka-{uuid.uuid4().hex}"
        self._port = port
        self._progress = progress
        self._properties = properties or {}
        self._owner: int | None = None
        self._broker: Broker | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocalKafka:
        files = BrokerFiles(self.data_dir)
        files.make()
        try:
            self._owner = _become_owner(files)
            with _starting(files):
                self._broker = status(self.data_dir)
                if self._broker is None:
                    self._broker, self._guard = start(files, self._port, self._progress, self._properties, daemon=False)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def broker(self) -> Broker:
        if self._broker is None:
            raise RuntimeError("LocalKafka is not entered")
        return self._broker

    @property
    def bootstrap_servers(self) -> str:
        return self.broker.bootstrap_servers

    def running(self) -> bool:
        return BrokerFiles(self.data_dir).running()

    def topic_bytes(self, topic: str) -> int:
        """Bytes that `topic` takes on the broker's disk."""
        return topic_bytes(self.data_dir, topic)

    def stop(self) -> None:
        """Leave; the last owner waits until the broker has ended. May be called twice."""
        if self._owner is None:
            return
        files = BrokerFiles(self.data_dir)
        try:
            # Only the last owner gets it, and keeps it until the end: a newcomer waits until this broker has ended.
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # others still use it
        else:
            if not files.is_daemon():
                _end(files)
        finally:
            os.close(self._owner)
            self._owner = None
            self._broker = None
        if self._guard is not None and not files.running():
            self._guard.wait()
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)


def start_daemon(data_dir: Path, port: int | None, progress: Progress = silent) -> Broker:
    """Start a broker that runs until `stop`; one that already runs there is returned unchanged.

    `port` None: the one last used in this directory, else 9092; 0: the one last used, or a free one.
    """
    files = BrokerFiles(data_dir)
    files.make()
    with _starting(files):
        running = status(data_dir)
        if running is None:
            broker, guard = start(files, port, progress, {}, daemon=True)
            guard.returncode = 0  # not ours to wait for; Popen would warn about a child left behind
            return broker
    if port not in (None, 0, running.port):
        raise ConfigError(f"{data_dir}: its broker already runs on port {running.port}; stop it to move it to {port}")
    return running


def status(data_dir: Path) -> Broker | None:
    """The broker that runs on `data_dir`, once it answers; None if none runs. Raises KafkaError when it never answers."""
    files = BrokerFiles(data_dir)
    if not files.folder.exists():
        return None
    identity = files.identity()
    if identity is None or not files.running():
        return None
    return wait_ready(files, identity, files.running)


def stop(data_dir: Path) -> bool:
    """Stop the broker of `data_dir` cleanly. False if none runs."""
    files = BrokerFiles(data_dir)
    return _end(files)


def _become_owner(files: BrokerFiles) -> int:
    """A descriptor whose shared lock keeps the broker alive. The guard of an ending broker holds the lock; waits for its
    end."""
    descriptor = os.open(files.owners_lock, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise KafkaError(f"local Kafka: the broker of {files.folder} does not end") from None
            time.sleep(POLL_S)
        else:
            return descriptor


@contextlib.contextmanager
def _starting(files: BrokerFiles) -> Iterator[None]:
    """One starter at a time; the others use what it started."""
    with files.start_lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _end(files: BrokerFiles) -> bool:
    """Ask the guard to end its broker, and wait for that. False if none runs. Raises KafkaError when it never ends."""
    pids = files.running_pids()
    if not pids:
        return False
    # The guard kills a broker that does not end in time; without a guard, we kill what is left.
    for number, chosen, within_s in (
        (signal.SIGTERM, pids[:1], guard.STOP_WITHIN_S + 10),
        (signal.SIGKILL, pids, 10.0),
    ):
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if not files.running():
                return True
            time.sleep(POLL_S)
    raise KafkaError(f"local Kafka: the broker of {files.folder} does not end (processes {pids})")
