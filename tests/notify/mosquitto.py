"""A real MQTT broker for one test."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from codecflow.localkafka.files import free_port
from tests.debian import environment, find_program


class Mosquitto:
    """A context manager: a broker on 127.0.0.1 with `options` in its configuration. It can be stopped and restarted."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._program = find_program("mosquitto")
        self._config = folder / "mosquitto.conf"
        lines = (f"listener {self.port} 127.0.0.1", "user root", *(options or ("allow_anonymous true",)))
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "-c", self._config], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, "mosquitto ended"
                assert time.monotonic() < deadline, "mosquitto did not start"
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
