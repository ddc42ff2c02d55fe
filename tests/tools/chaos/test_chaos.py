"""`codecflow chaos`: services recover by themselves from faults, and failures are reported."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from subprocess import run

import pytest

from codecflow.errors import ConfigError
from codecflow.localkafka.files import free_port
from codecflow.messages import Result
from codecflow.tools.chaos.faults import BASE
from codecflow.tools.chaos.proxy import Mode, Proxy
from codecflow.tools.chaos.run import ChaosOptions
from codecflow.tools.chaos.run import run as run_chaos
from codecflow.tools.chaos.verify import missing_windows
from tests.subscriber.example_results import RESULT


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of an echo server."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while data := connection.recv(100):
                    connection.sendall(data)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 30)


def says(connection: socket.socket, text: bytes, within_s: float = 30.0) -> bytes | None:
    """The reply; empty from a closed connection, None from a silent one."""
    connection.settimeout(within_s)
    try:
        connection.sendall(text)
        return connection.recv(100)
    except TimeoutError:
        return None
    except OSError:
        return b""


def test_a_proxy_cuts_silences_refuses_and_slows(echo: int) -> None:
    with Proxy(free_port(), echo) as proxy:
        first = connect(proxy)
        assert says(first, b"a") == b"a"
        proxy.cut()
        assert says(first, b"b") == b""
        second = connect(proxy)
        assert says(second, b"c") == b"c"
        proxy.set(Mode.SILENT)
        assert says(second, b"d", 0.3) is None
        third = connect(proxy)
        assert says(third, b"e", 0.3) is None
        proxy.set(Mode.SLOW)
        fourth = connect(proxy)
        assert says(second, b"f", 0.3) is None, "what has been silent is dead"
        assert says(fourth, b"g") == b"g"
        proxy.set(Mode.REFUSE)
        assert says(fourth, b"h") == b""
        assert says(connect(proxy), b"i") == b""
        for each in (first, second, third, fourth):
            each.close()


def test_what_is_lacking() -> None:
    def windows(stride: int, *ends: int) -> list[Result]:
        return [
            replace(
                RESULT,
                stream="a",
                epoch=1,
                window=end // stride - 1,
                question=BASE.id,
                start_s=max(0.0, end - 6.0),
                end_s=float(end),
            )
            for end in ends
        ]

    undisturbed = {"2": windows(2, 2, 4, 6, 8, 10, 12)}
    assert missing_windows(windows(2, 2, 4, 6, 8, 10, 12), undisturbed) == []
    assert len(missing_windows(windows(2, 2, 4, 8, 10), undisturbed)) == 2
    both = undisturbed | {"3": windows(3, 3, 6, 9, 12)}
    assert missing_windows([*windows(2, 2, 4), *windows(3, 6, 9, 12)], both) == []
    assert missing_windows([*windows(2, 2, 4), *windows(3, 9, 12)], both) == ["a, epoch 1: nothing between 4 and 9 s"]
    assert missing_windows(windows(2, 2, 4, 6), both) == ["a, epoch 1: nothing between 6 and 12 s"]


def test_unknown_faults_are_refused() -> None:
    with pytest.raises(ConfigError, match="--faults nonsense: use some of kill-worker"):
        run_chaos(ChaosOptions(kinds=("nonsense",)), print)


@pytest.mark.slow
def test_a_seeded_run_loses_and_doubles_nothing(tmp_path: Path) -> None:
    faults = ["kill-worker", "cut", "poison", "kill-producer", "half-open", "kill-broker"]
    command = ["chaos", "--minutes", "0.4", "--seed", "5", "--streams", "2", "--faults", ",".join(faults)]
    done = run(
        [sys.executable, "-m", "codecflow", *command, "--keep", str(tmp_path / "logs")],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["windows"] >= 10
    assert (figures["lost"], figures["doubled"], figures["different"], figures["tracebacks"]) == (0, 0, 0, 0)
    assert sum(figures["faults"].values()) >= 1
    assert "recovery median s" in done.stdout
    assert "fault 1: kill-worker" in done.stderr
