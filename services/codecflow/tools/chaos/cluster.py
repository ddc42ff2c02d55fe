"""One or three real brokers, each behind a proxy for the services under test."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from codecflow.folders import make_folder
from codecflow.localkafka.daemon import LocalKafka
from codecflow.localkafka.distribution import KAFKA_VERSION
from codecflow.localkafka.files import HOST, BrokerFiles, Identity, free_port, new_cluster_id

from .proxy import Proxy

ENDS_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class _Ports:
    """`direct`: for brokers among themselves and for observers; `client`: behind the proxy."""

    direct: int
    client: int
    controller: int
    proxy: int


class Cluster:
    """Brokers in `folder` that run while the context is active. `notice` is called with progress lines."""

    def __init__(self, folder: Path, brokers: int, notice: Callable[[str], None]) -> None:
        self.brokers = brokers
        self._notice = notice
        self._ports = [_Ports(*(free_port() for _ in range(4))) for _ in range(brokers)]
        self._folders = [folder / f"broker-{number + 1}" for number in range(brokers)]
        self._nodes: list[LocalKafka | None] = [None] * brokers
        self.proxies = [Proxy(ports.proxy, ports.client) for ports in self._ports]
        cluster_id = new_cluster_id()
        for data, ports in zip(self._folders, self._ports, strict=True):
            make_folder(data)
            BrokerFiles(data).write(Identity(cluster_id, KAFKA_VERSION, ports.direct, ports.controller), {})

    @property
    def disturbed(self) -> str:
        """Bootstrap servers behind the proxies."""
        return ",".join(f"{HOST}:{ports.proxy}" for ports in self._ports)

    @property
    def direct(self) -> str:
        """Bootstrap servers without proxies."""
        return ",".join(f"{HOST}:{ports.direct}" for ports in self._ports)

    def __enter__(self) -> Cluster:
        self._exits = ExitStack()
        try:
            for proxy in self.proxies:
                self._exits.enter_context(proxy)
            self._exits.callback(self._stop_all)
            with ThreadPoolExecutor(self.brokers) as pool:  # each of three answers only after another one has started
                list(pool.map(self.start, range(self.brokers)))
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def start(self, number: int) -> None:
        """Starts a broker and waits until it answers."""
        node = LocalKafka(self._folders[number], self._ports[number].direct, self._notice, self._properties(number))
        self._nodes[number] = node
        node.__enter__()

    def stop(self, number: int) -> None:
        """Stops a broker cleanly, like an administrator."""
        node, self._nodes[number] = self._nodes[number], None
        if node is not None:
            node.stop()

    def kill(self, number: int) -> None:
        """Kills a broker with SIGKILL."""
        pid = self._broker_pid(number)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait(number)
        self.stop(number)

    def fill_disk(self, number: int) -> bool:
        """Makes all further writes of the broker fail until it is restarted; returns whether this system supports that.

        A broker halts when it cannot write to its only folder.
        """
        pid = self._broker_pid(number)
        if pid is None or not hasattr(resource, "prlimit"):
            return False
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
        return True

    def runs(self, number: int) -> bool:
        return BrokerFiles(self._folders[number]).running()

    def _broker_pid(self, number: int) -> int | None:
        pids = BrokerFiles(self._folders[number]).running_pids()
        return pids[-1] if len(pids) > 1 else None

    def _wait(self, number: int) -> None:
        deadline = time.monotonic() + ENDS_WITHIN_S
        while self.runs(number) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _stop_all(self) -> None:
        with ThreadPoolExecutor(self.brokers) as pool:
            list(pool.map(self.stop, range(self.brokers)))

    def _properties(self, number: int) -> dict[str, str]:
        ports = self._ports[number]
        voters = ",".join(f"{node + 1}@{HOST}:{each.controller}" for node, each in enumerate(self._ports))
        copies, in_sync = ("3", "2") if self.brokers >= 3 else ("1", "1")
        return {
            "node.id": str(number + 1),
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://{HOST}:{ports.direct},CLIENT://{HOST}:{ports.client},"
            f"CONTROLLER://{HOST}:{ports.controller}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{ports.direct},CLIENT://{HOST}:{ports.proxy}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_sync,
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "500",
        }
