"""`codecflow produce` as a separate process: ended cleanly by SIGTERM, its final output one JSON line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from codecflow.cli.options import picture_pixels
from codecflow.errors import ConfigError
from codecflow.kafka.settings import KafkaSettings
from tests.codec.aborting import aborting_ts
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
        out, _ = process.communicate(timeout=60)
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
                out, err = process.communicate(timeout=60)
                assert time.monotonic() - began < 20, "a second, and room for a busy machine; not the 60 s"
    assert process.returncode == 0
    assert out.startswith("stream gate: 0 pictures")
    assert err == ""


def last_words(settings: KafkaSettings, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """(exit status, JSON document, error) of `produce --json`."""
    done = subprocess.run(
        command(settings, *arguments, "--json"), capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, "nothing else on stdout"
    return done.returncode, json.loads(lines[0]), done.stderr.splitlines()[-1]


def test_a_damaged_file_ends_in_a_document_and_one_true_line(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", "h264-ts", pictures=60)
    packets = [path.read_bytes()[at : at + 188] for at in range(0, path.stat().st_size, 188)]
    path.write_bytes(b"".join(packet for index, packet in enumerate(packets) if index != len(packets) // 2))
    status, document, error = last_words(kafka_settings, str(path), "--stream", "gate", "--fast")
    lost = sum(document["dropped"].values())
    published = len(read(kafka_settings).packets)
    assert (status, document["pictures"]) == (3, published)
    assert document["dropped"]["corrupt"] == 1
    assert f"{lost} of the {published + lost} pictures of {path} were not published (1 corrupt" in error
    assert document["error"] == error.removeprefix("codecflow: ")


def test_a_file_of_which_nothing_can_be_published_says_so(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", "mjpeg")
    data = bytearray(path.read_bytes())
    at = data.find(b"\xff\xda")
    while at >= 0:  # no scan begins with a Huffman code
        end = data.find(b"\xff\xd9", at)
        data[at + 20 : end] = b"\xff\0" * ((end - at - 20) // 2) + b"\0" * ((end - at) % 2)
        at = data.find(b"\xff\xda", end)
    path.write_bytes(data)
    status, document, error = last_words(kafka_settings, str(path), "--stream", "gate", "--fast")
    assert (status, document["pictures"], document["dropped"]) == (3, 0, {"corrupt": 30})
    assert f"none of the 30 pictures of {path} was published (30 corrupt)" in error


def test_what_cannot_be_opened_ends_in_a_document_too(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.mp4")
    status, document, error = last_words(kafka_settings, missing, "--stream", "gate")
    assert (status, document["pictures"], document["source"]) == (3, 0, missing)
    assert document["error"] == error.removeprefix("codecflow: ")
    assert last_words(kafka_settings, str(CLIP), "--stream", "no/id")[1]["error"]
    assert last_words(kafka_settings, str(CLIP), "--stream", "gate", "--transcode", "fps=x")[0] == 2


def test_a_file_at_which_ffmpeg_aborts_is_one_clear_line(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    path = tmp_path / "aborts.ts"
    path.write_bytes(aborting_ts())
    arguments = command(kafka_settings, str(path), "--stream", "gate")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    line = f"codecflow: source {path}: cannot be opened: aborted: "
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_ctrl_c_while_a_silent_broker_is_waited_for() -> None:
    with socket.socket() as host:
        host.bind(("127.0.0.1", 0))
        host.listen(5)
        settings = KafkaSettings(f"127.0.0.1:{host.getsockname()[1]}", "prefix", reach_within_s=60)
        arguments = [*command(settings, str(CLIP), "--stream", "gate")]
        environment = os.environ | {"CODECFLOW_REACH_WITHIN_S": "60"}
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            connection, _ = host.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                began = time.monotonic()
                _, err = process.communicate(timeout=60)
                assert time.monotonic() - began < 20, "a second, and room for a busy machine; not the 60 s"
    assert (process.returncode, err) == (0, b"")


def test_pictures_that_are_too_large_are_one_error(kafka_settings: KafkaSettings) -> None:
    arguments = (str(CLIP), "--stream", "gate", "--fast", "--max-picture-size")
    status, document, error = last_words(kafka_settings, *arguments, "640x360")
    assert (status, document["pictures"]) == (3, 0)
    assert "stream gate: pictures of 768x432 are larger than 230400 samples" in error
    assert last_words(kafka_settings, *arguments, "9000x9000")[0] == 2
    for wrong in ("640", "0x360", "x", "-1x-1"):
        with pytest.raises(ConfigError, match="picture"):
            picture_pixels(wrong)
