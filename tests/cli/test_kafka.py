"""`codecflow kafka`: a daemon that stays until it is stopped, and a broker in the foreground."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from codecflow.kafka.clients import require_broker
from codecflow.kafka.settings import KafkaSettings
from codecflow.localkafka.daemon import status
from codecflow.localkafka.files import listens

from .test_app import CODECFLOW, run


def test_a_daemon_from_start_to_stop(tmp_path: Path) -> None:
    at = ("--data-dir", str(tmp_path / "kafka"))
    assert run("kafka", "status", *at).returncode == 1
    started = run("kafka", "start", "--port", "0", *at)
    try:
        assert started.returncode == 0, started.stderr
        servers = started.stdout.strip()
        require_broker(KafkaSettings(servers, reach_within_s=60.0))
        said = run("kafka", "status", *at)
        assert said.returncode == 0
        assert servers in said.stdout
    finally:
        stopped = run("kafka", "stop", *at)
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
    assert not listens(int(servers.rpartition(":")[2]))
    assert run("kafka", "stop", *at).stdout == "not running\n"


def test_ctrl_c_ends_the_foreground(tmp_path: Path) -> None:
    command = [*CODECFLOW, "kafka", "start", "--foreground", "--port", "0", "--data-dir", str(tmp_path / "kafka")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        servers = process.stdout.readline().strip()
        require_broker(KafkaSettings(servers, reach_within_s=60.0))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert status(tmp_path / "kafka") is None
