"""Starting a local broker: its files, its processes, and waiting until it answers."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from codecflow.errors import ConfigError, KafkaError
from codecflow.kafka.clients import admin_client
from codecflow.kafka.settings import KafkaSettings

from . import guard
from .distribution import KAFKA_VERSION, Progress, class_path, find_java
from .files import HOST, BrokerFiles, Identity, free_port, listens, new_cluster_id, port_is_free, private

DEFAULT_PORT = 9092
READY_WITHIN_S = 90.0
POLL_S = 0.1
_UMASK = 0o077
"""Everything that the broker writes, including pictures, is accessible only to the user."""
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


def start(
    files: BrokerFiles, port: int | None, progress: Progress, properties: Mapping[str, str], *, daemon: bool
) -> tuple[Broker, subprocess.Popen[bytes]]:
    """The broker, ready, and its guard. `port` None: the one last used, else 9092; 0: the one last used, or a free one."""
    java = find_java()
    jars = class_path(progress)
    for _ in range(3):
        identity = _identify(files, port)
        files.write(identity, properties)
        base = [str(java), *_JVM, f"-Dlog4j2.configurationFile={files.logging}", "-cp", jars]
        if not files.formatted:
            _format(files, identity, base)
        progress(f"starting Apache Kafka {KAFKA_VERSION} on port {identity.port}")
        guard = _spawn(files, [*base, "kafka.Kafka", str(files.server)], daemon=daemon)
        try:
            broker = wait_ready(files, identity, partial(_alive, guard))
        except BaseException:
            _end(guard)
            raise
        if broker is not None:
            return broker, guard
        if port != 0 or not files.port_was_taken():
            raise KafkaError(f"local Kafka: the broker ended during its start: {files.last_error()}")
        # Another process took the free port before the broker could.
    raise KafkaError(f"local Kafka: no port is free on {HOST}; choose one with --port")


def _spawn(files: BrokerFiles, command: list[str], *, daemon: bool) -> subprocess.Popen[bytes]:
    files.set_log_aside()
    with files.running_lock.open("w") as lock, open(files.output, "wb", opener=private) as output:
        _lock_running(files, lock.fileno())
        files.pid.unlink(missing_ok=True)
        owners_lock = "-" if daemon else str(files.owners_lock)
        return subprocess.Popen(
            [sys.executable, "-I", guard.__file__, str(files.pid), owners_lock, str(lock.fileno()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=files.folder,
            pass_fds=[lock.fileno()],
            umask=_UMASK,
            start_new_session=True,  # the caller handles a Ctrl-C in the terminal
        )


def _lock_running(files: BrokerFiles, descriptor: int) -> None:
    deadline = time.monotonic() + 3  # a process that only checks whether a broker runs holds it for a moment
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise KafkaError(f"local Kafka: {files.folder} is in use by another broker") from None
            time.sleep(POLL_S)


def _alive(guard: subprocess.Popen[bytes]) -> bool:
    return guard.poll() is None


def _end(guard: subprocess.Popen[bytes]) -> None:
    guard.terminate()
    guard.wait()


def _identify(files: BrokerFiles, port: int | None) -> Identity:
    known = files.identity()
    if known and tuple(map(int, known.kafka.split("."))) > tuple(map(int, KAFKA_VERSION.split("."))):
        raise ConfigError(
            f"{files.folder}: written by Kafka {known.kafka}, newer than {KAFKA_VERSION}; choose another --data-dir"
        )
    if port is None:
        port = known.port if known else DEFAULT_PORT
    if port and not port_is_free(port):
        raise ConfigError(
            f"local Kafka: port {port} is busy; stop what listens there, or choose another --port (0 finds a free one)"
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
    done = subprocess.run(command, capture_output=True, text=True, check=False, umask=_UMASK)
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines()
        raise KafkaError(f"local Kafka: cannot format {files.data}: {output[-1] if output else 'no reason given'}")


def wait_ready(files: BrokerFiles, identity: Identity, alive: Callable[[], bool]) -> Broker | None:
    """The broker, once it answers a metadata request as this cluster; None if it ends before. Raises KafkaError."""
    deadline = time.monotonic() + READY_WITHIN_S
    client: AdminClient | None = None
    while time.monotonic() < deadline:
        if not alive():
            return None
        pids = files.running_pids()
        if pids and listens(identity.port):  # worth a request
            client = client or admin_client(KafkaSettings(bootstrap_servers=f"{HOST}:{identity.port}"))
            with contextlib.suppress(KafkaException):
                metadata = client.list_topics(timeout=2)
                if metadata.cluster_id != identity.cluster_id:
                    raise KafkaError(f"local Kafka: port {identity.port} belongs to another Kafka cluster")
                if metadata.brokers:
                    return Broker(data_dir=files.folder, port=identity.port, pid=pids[0], kafka=identity.kafka)
        time.sleep(POLL_S)
    raise KafkaError(f"local Kafka: no answer within {READY_WITHIN_S:.0f} s: {files.last_error()}")
