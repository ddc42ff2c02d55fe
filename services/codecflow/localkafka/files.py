"""The files of a local broker: the contents of its data directory, and whether one runs on it."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from codecflow.errors import ConfigError
from codecflow.folders import make_folder

HOST = "127.0.0.1"
"""A local broker has no passwords, so it must not be reachable from other machines."""

_SERVER = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
# A topic that is missing is to be an error, as in production, not a topic with whatever defaults.
auto.create.topics.enable=false
# One node: no copies, few partitions of the internal topics, no waiting for more members of a group.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# Room for a small machine.
num.network.threads=2
num.io.threads=4
background.threads=4
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.backoff.ms=5000
"""

_LOGGING = """\
rootLogger.level=warn
rootLogger.appenderRef.file.ref=file
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={folder}/broker.log
appender.file.filePattern={folder}/broker.%i.log
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d %p %m (%c)%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=8MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=2
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Ties a data directory to this cluster. Ports are stored so that a restart uses the same ones."""

    cluster_id: str
    kafka: str
    port: int
    controller_port: int


class BrokerFiles:
    """Paths in `folder`, and the facts stored there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.pid = self.folder / "broker.pid"
        self.running_lock = self.folder / "running.lock"
        self.owners_lock = self.folder / "owners.lock"
        self.start_lock = self.folder / "start.lock"
        self.server = self.folder / "server.properties"
        self.logging = self.folder / "log4j2.properties"
        self.log = self.folder / "broker.log"
        self.output = self.folder / "broker.out"
        self._identity = self.folder / "broker.json"

    def make(self) -> None:
        """Create the folder, readable only by its user: it holds pictures, and perhaps passwords. Raises ConfigError."""
        make_folder(self.folder, private=True)
        if self._identity.exists() or not any(self.folder.iterdir()):  # an existing folder that becomes ours
            with contextlib.suppress(OSError):
                self.folder.chmod(0o700)

    def identity(self) -> Identity | None:
        """None in a directory without a cluster. Raises ConfigError when it holds something else."""
        if self._identity.exists():
            try:
                identity = Identity(**json.loads(self._identity.read_text()))
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    f"{self._identity}: not readable; choose another --data-dir or remove this one"
                ) from error
            self._check_cluster(identity)
            return identity
        ours = {self.running_lock, self.owners_lock, self.start_lock}
        if self.folder.exists() and any(entry not in ours for entry in self.folder.iterdir()):
            raise ConfigError(f"{self.folder}: holds files of something else; choose another --data-dir")
        return None

    def _check_cluster(self, identity: Identity) -> None:
        meta = self.data / "meta.properties"
        if not meta.exists():
            return
        found = dict(line.partition("=")[::2] for line in meta.read_text().splitlines() if "=" in line)
        if found.get("cluster.id") != identity.cluster_id:
            raise ConfigError(f"{self.folder}: its data belong to another Kafka cluster; choose another --data-dir")

    def write(self, identity: Identity, properties: Mapping[str, str]) -> None:
        """Write everything that the broker reads at its start; `properties` override ours."""
        _write(self._identity, json.dumps(asdict(identity)))
        _write(
            self.server,
            _SERVER.format(
                host=HOST, port=identity.port, controller_port=identity.controller_port, data=_escaped(self.data)
            )
            + "".join(f"{name}={value}\n" for name, value in properties.items()),
        )
        _write(self.logging, _LOGGING.format(folder=_escaped(self.folder)))

    @property
    def formatted(self) -> bool:
        return (self.data / "meta.properties").exists()

    def running(self) -> bool:
        """Whether a running or starting broker holds this directory."""
        return self.running_lock.exists() and not lockable(self.running_lock)

    def running_pids(self) -> list[int]:
        """Process ids of the guard and the broker, as far as they are recorded; empty if none runs."""
        if not self.running() or not self.pid.exists():
            return []
        return [int(word) for word in self.pid.read_text().split()[1:]]

    def is_daemon(self) -> bool:
        """Whether the broker last started here runs until it is stopped, regardless of its users."""
        return self.pid.exists() and self.pid.read_text().startswith("daemon")

    def set_log_aside(self) -> None:
        """Errors found in the log from now on are those of the coming run."""
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".previous.log"))

    def port_was_taken(self) -> bool:
        return self.log.exists() and "Address already in use" in self.log.read_text(errors="replace")

    def last_error(self) -> str:
        """The newest error in the broker's log, or where to look."""
        for path, marks in ((self.log, (" ERROR ", " FATAL ")), (self.output, ("rror", "xception"))):
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            found = [number for number, line in enumerate(lines) if any(mark in line for mark in marks)]
            if found:
                # The exception below an error line says more than the line itself.
                below = lines[found[-1] + 1 : found[-1] + 2]
                exception = below[0] if below and re.match(r"[a-z][\w.]*(Exception|Error)\b", below[0]) else None
                return f"{(exception or lines[found[-1]]).strip()[:300]} (more in {path})"
        return f"see {self.log}"


def lockable(path: Path) -> bool:
    """Whether no process holds a lock on `path`, tested with a lock that is released immediately."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def new_cluster_id() -> str:
    """A random id in Kafka's own form: 16 bytes, URL-safe base64, no padding, no leading dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def topic_bytes(data_dir: Path, topic: str) -> int:
    """Disk usage of `topic` on the local broker at `data_dir`, in bytes: the log segments of all its partitions, as the
    broker stores them (compressed batches with their headers), without indexes."""
    folders = [
        folder for folder in (data_dir / "data").glob(f"{topic}-*") if folder.name.removeprefix(f"{topic}-").isdigit()
    ]
    return sum(segment.stat().st_size for folder in folders for segment in folder.glob("*.log"))


def private(path: str, flags: int) -> int:
    """An opener for open(): the file is accessible only to its owner."""
    return os.open(path, flags, 0o600)


def _write(path: Path, text: str) -> None:
    """Private to its owner from the start: properties may hold passwords."""
    with open(path, "w", opener=private) as file:
        os.fchmod(file.fileno(), 0o600)  # it may have existed already
        file.write(text)


def _escaped(path: Path) -> str:
    """A path as a value in a Java properties file."""
    return str(path).replace("\\", "\\\\")
