"""`codecflow produce` as a process of its own: ended in good order by SIGTERM, its last word one JSON line."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from codecflow.kafka.settings import KafkaSettings
from tests.codec.clips import encode

from .topics import read

CLIP = Path(__file__).parents[1] / "data" / "intel_one-by-one-person-detection.mp4"


def command(settings: KafkaSettings, *arguments: str) -> list[str]:
    at = ["--bootstrap-servers", settings.bootstrap_servers, "--topic-prefix", settings.topic_prefix]
    return [sys.executable, "-c", "from codecflow.cli.app import main; main()", "produce", *arguments, *at]


def test_sigterm_closes_the_epoch(kafka_settings: KafkaSettings) -> None:
    with subprocess.Popen(
        command(kafka_settings, str(CLIP), "--stream", "gate", "--loop", "--json"), stdout=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not read(kafka_settings).metadata:
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    summary = json.loads(out.strip().splitlines()[-1])
    topics = read(kafka_settings)
    assert summary["ended"]
    assert summary["pictures"] == len(topics.packets) == len(topics.metadata) == topics.ends[0].pictures


def test_a_file_to_its_end(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip")
    arguments = (str(clip), "--stream", "gate", "--fast", "--signal-interval", "1/5", "--transcode", "fps=5,gop=5")
    done = subprocess.run(command(kafka_settings, *arguments), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("stream gate: 15 pictures, 2.8 s, packets ")
    assert len([one for one in read(kafka_settings).metadata if one.signal]) == 15


def test_ctrl_c_while_a_silent_host_is_waited_for(kafka_settings: KafkaSettings) -> None:
    with socket.socket() as host:
        host.bind(("127.0.0.1", 0))
        host.listen(5)
        address = f"rtsp://user:hunter2@127.0.0.1:{host.getsockname()[1]}/cam"
        with subprocess.Popen(
            command(kafka_settings, address, "--stream", "gate", "--timeout", "60"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            connection, _ = host.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                began = time.monotonic()
                out, err = process.communicate(timeout=30)
                assert time.monotonic() - began < 4, "a second, and room for a busy machine"
    assert process.returncode == 0
    assert out.startswith("stream gate: 0 pictures")
    assert err == ""
