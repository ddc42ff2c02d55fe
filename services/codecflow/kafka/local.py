"""A real Apache Kafka on this machine: one node, KRaft, with nothing but pip (the extra `codecflow[local]`).

`LocalKafka` is the one way to have it for as long as a program runs (tests, demo); `start_daemon`, `stop` and `status` are
what `codecflow kafka` does. A guard process (`_guard.py`) stands between: it ends the broker when its last owner is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from codecflow.errors import ConfigError, KafkaError

from . import _guard
from .clients import admin_client
from .distribution import KAFKA_VERSION, Progress, class_path, find_java
from .local_files import HOST, BrokerFiles, Identity, free_port, listens, new_cluster_id, port_is_free, topic_bytes
from .settings import KafkaSettings

READY_WITHIN_S = 90.0
_POLL_S = 0.1
_JVM = (
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
)


@dataclass(frozen=True, slots=True)
class Broker:
    """A local broker that answers."""

    data_dir: Path
    port: int
    pid: int
    kafka: str

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self.port}"


def silent(line: str) -> None:
    """No progress lines."""


class LocalKafka:
    """A broker for as long as this context is entered, in `data_dir` or, without one, in a folder removed afterwards.

    Several programs may enter with the same `data_dir`: the first starts the broker, the last one out ends it, and so it
    ends when all of them are killed. A daemon found running there is used and left running. `port` 0: the one remembered
    in the data directory, else a free one.
    """

    def __init__(self, data_dir: Path | None = None, port: int = 0, progress: Progress = silent) -> None:
        self._temporary = data_dir is None
        self.data_dir = Path(tempfile.mkdtemp(prefix="codecflow-kafka-")) if data_dir is None else data_dir
        self._port = port
        self._progress = progress
        self._owner: int | None = None
        self._broker: Broker | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocalKafka:
        files = BrokerFiles(self.data_dir)
        files.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._owner = _become_owner(files)
            with _starting(files):
                self._broker = status(self.data_dir)
                if self._broker is None:
                    self._broker, self._guard = _start(files, self._port, self._progress, daemon=False)
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
            # Had only by the last owner, and kept till the end: a newcomer waits until this broker has ended.
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # others still use it
        else:
            pid = files.running_pid()
            if pid is not None and not files.is_daemon():
                os.kill(pid, signal.SIGTERM)
                _wait_ended(files)
        finally:
            os.close(self._owner)
            self._owner = None
            self._broker = None
        if self._guard is not None and not files.running():
            self._guard.wait()
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)


def start_daemon(data_dir: Path, port: int, progress: Progress = silent) -> Broker:
    """Start a broker that runs until `stop`; the one that already runs there is returned as it is."""
    files = BrokerFiles(data_dir)
    files.folder.mkdir(parents=True, exist_ok=True)
    with _starting(files):
        running = status(data_dir)
        if running is None:
            broker, guard = _start(files, port, progress, daemon=True)
            guard.returncode = 0  # not ours to wait for; Popen would warn of a child left behind
            return broker
    if port not in (0, running.port):
        raise ConfigError(f"{data_dir}: its broker already runs on port {running.port}; stop it to move it to {port}")
    return running


def status(data_dir: Path) -> Broker | None:
    """The broker that runs on `data_dir`, once it answers; None where none runs. Raises KafkaError when it never does."""
    files = BrokerFiles(data_dir)
    if not files.folder.exists():
        return None
    identity = files.identity()
    if identity is None or not files.running():
        return None
    _wait_ready(files, identity, None)
    return _described(files, identity)


def stop(data_dir: Path) -> bool:
    """End the broker of `data_dir` in good order. False where none runs."""
    files = BrokerFiles(data_dir)
    pid = files.running_pid()
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    _wait_ended(files)
    return True


def _become_owner(files: BrokerFiles) -> int:
    """A descriptor whose shared lock keeps the broker alive. The guard of one that is ending holds it; wait for its end."""
    descriptor = os.open(files.owners_lock, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise KafkaError(f"local Kafka: the broker of {files.folder} does not end") from None
            time.sleep(_POLL_S)
        else:
            return descriptor


@contextlib.contextmanager
def _starting(files: BrokerFiles) -> Iterator[None]:
    """One starter at a time; the others find what it started."""
    with files.start_lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(
    files: BrokerFiles, port: int, progress: Progress, *, daemon: bool
) -> tuple[Broker, subprocess.Popen[bytes]]:
    """The broker, ready, and its guard."""
    java = find_java()
    jars = class_path(progress)
    for _ in range(3):
        identity = _identify(files, port)
        files.write(identity)
        base = [str(java), *_JVM, f"-Dlog4j2.configurationFile={files.logging}", "-cp", os.pathsep.join(map(str, jars))]
        if not files.formatted:
            _format(files, identity, base)
        progress(f"starting Apache Kafka {KAFKA_VERSION} on port {identity.port}")
        guard = _spawn(files, [*base, "kafka.Kafka", str(files.server)], daemon=daemon)
        try:
            _wait_ready(files, identity, guard)
        except KafkaError:
            _end(guard)
            if port == 0 and files.port_was_taken():  # somebody took the free port before the broker could
                continue
            raise
        except BaseException:
            _end(guard)
            raise
        return _described(files, identity), guard
    raise KafkaError(f"local Kafka: no port stays free on {HOST}; choose one with --port")


def _spawn(files: BrokerFiles, command: list[str], *, daemon: bool) -> subprocess.Popen[bytes]:
    files.log.unlink(missing_ok=True)  # a complaint found in it later is to be this run's
    with files.running_lock.open("w") as lock, files.output.open("wb") as output:
        _lock_running(files, lock.fileno())
        files.pid.unlink(missing_ok=True)
        owners_lock = "-" if daemon else str(files.owners_lock)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _guard.__file__, str(files.pid), owners_lock, str(lock.fileno()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=files.folder,
            pass_fds=[lock.fileno()],
            start_new_session=True,  # a Ctrl-C in the terminal is the caller's to handle
        )


def _lock_running(files: BrokerFiles, descriptor: int) -> None:
    deadline = time.monotonic() + 3  # somebody who only looks whether a broker runs holds it for a moment
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise KafkaError(f"local Kafka: {files.folder} is in use by another broker") from None
            time.sleep(_POLL_S)


def _end(guard: subprocess.Popen[bytes]) -> None:
    guard.terminate()
    guard.wait()


def _identify(files: BrokerFiles, port: int) -> Identity:
    known = files.identity()
    if known and tuple(map(int, known.kafka.split("."))) > tuple(map(int, KAFKA_VERSION.split("."))):
        raise ConfigError(
            f"{files.folder}: written by Kafka {known.kafka}, newer than {KAFKA_VERSION}; choose another --data-dir"
        )
    if port and not port_is_free(port):
        raise ConfigError(
            f"port {port} is busy; stop what listens there, or choose another --port (0 finds a free one)"
        )
    remembered = known.port if known and port_is_free(known.port) else None
    fresh = Identity(
        cluster_id=new_cluster_id(),
        kafka=KAFKA_VERSION,
        port=port or remembered or free_port(),
        controller_port=free_port(),
    )
    return replace(fresh, cluster_id=known.cluster_id) if known else fresh


def _format(files: BrokerFiles, identity: Identity, base: list[str]) -> None:
    command = [*base, "kafka.tools.StorageTool", "format", "-t", identity.cluster_id, "-c", str(files.server)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise KafkaError(f"local Kafka: cannot format {files.data}: {said[-1] if said else 'no reason given'}")


def _wait_ready(files: BrokerFiles, identity: Identity, guard: subprocess.Popen[bytes] | None) -> None:
    """Return once the broker answers a metadata request as this cluster. Raises KafkaError."""
    deadline = time.monotonic() + READY_WITHIN_S
    client: AdminClient | None = None
    while time.monotonic() < deadline:
        if guard.poll() is not None if guard else not files.running():
            raise KafkaError(f"local Kafka: the broker ended at its start: {files.last_error()}")
        if listens(identity.port):  # worth a request
            client = client or admin_client(KafkaSettings(bootstrap_servers=f"{HOST}:{identity.port}"))
            with contextlib.suppress(KafkaException):
                metadata = client.list_topics(timeout=2)
                if metadata.cluster_id != identity.cluster_id:
                    raise KafkaError(f"local Kafka: port {identity.port} belongs to another Kafka cluster")
                if metadata.brokers:
                    return
        time.sleep(_POLL_S)
    raise KafkaError(f"local Kafka: no answer within {READY_WITHIN_S:.0f} s: {files.last_error()}")


def _described(files: BrokerFiles, identity: Identity) -> Broker:
    pid = files.running_pid()
    if pid is None:
        raise KafkaError(f"local Kafka: the broker has just ended: {files.last_error()}")
    return Broker(data_dir=files.folder, port=identity.port, pid=pid, kafka=identity.kafka)


def _wait_ended(files: BrokerFiles) -> None:
    """Return once no broker runs. The guard kills one that does not end in time; if even the guard hangs, we kill both."""
    deadline = time.monotonic() + _guard.STOP_WITHIN_S + 10
    while files.running():
        if time.monotonic() > deadline:
            pid = files.running_pid()
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            deadline += 10
        time.sleep(_POLL_S)
