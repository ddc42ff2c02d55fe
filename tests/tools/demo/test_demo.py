"""`codecflow demo` as a user runs it: real processes, a real broker, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codecflow.localkafka.files import listens
from codecflow.vlm.tiny import make_tiny
from tests.clips import cut

pytestmark = pytest.mark.slow
DEMO = [sys.executable, "-m", "codecflow", "demo"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Six seconds: less than one default stride of eight."""
    return cut(6, tmp_path / "six seconds.mp4")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """For demos without answers: otherwise each would import torch to make the same model."""
    return make_tiny(tmp_path / "model", image_size=112)


def test_a_clip_becomes_answers_and_figures(clip: Path) -> None:
    done = subprocess.run([*DEMO, str(clip)], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert figures["windows"] == 1
    assert figures["answers"] == 1
    assert figures["pictures"] == 61
    assert figures["frames_missing"] == 0
    assert figures["source_bytes"] == clip.stat().st_size
    assert figures["packets_bytes"] > 0.9 * clip.stat().st_size
    assert 0 < figures["metadata_bytes"] < figures["packets_bytes"]
    assert figures["jpeg_frames"] in (12, 13)
    assert figures["jpeg_bytes"] > figures["jpeg_frames"] * 10_000
    for share in ("tokens_kept_share", "kv_refreshed_share", "flops_share"):
        assert 0 < figures[share] <= 1, share
    assert figures["trained"] is False
    printed = "\n".join(lines)
    assert "UNTRAINED" in printed
    assert re.search(r"^watch it in a browser: http://127\.0\.0\.1:\d+/#demo$", printed, re.MULTILINE)
    assert "lasts 6.1 s, less than one stride of 8 s" in printed
    assert re.search(r"^demo  [\d:]+  0:06  person: (yes|no) \(p\(yes\) 0\.\d\d\)", printed, re.MULTILINE)
    assert f"{figures['tokens_kept_share']:.1%}" in printed
    assert nothing_is_left(printed)


def test_a_service_that_fails_ends_it_in_one_line(clip: Path, model: Path) -> None:
    done = subprocess.run(
        [*DEMO, str(clip), "--model", str(model), "--keep", "everything"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("codecflow: codecflow worker failed: ")
    assert "'everything'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert nothing_is_left(done.stdout)


def test_ctrl_c_stops_what_it_started(clip: Path, model: Path) -> None:
    # If the tests run in the background, SIGINT is ignored, and child processes would inherit that.
    with subprocess.Popen(
        [*DEMO, str(clip), "--model", str(model), "--page"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no lock is taken in it
    ) as demo:
        assert demo.stdout is not None
        printed = ""
        for line in demo.stdout:
            printed += line
            if "started: codecflow produce" in line:
                break
        demo.send_signal(signal.SIGINT)
        rest, said = demo.communicate(timeout=60)
    assert demo.returncode == 130, said
    assert "Traceback" not in said
    assert nothing_is_left(printed + rest)


def nothing_is_left(printed: str) -> bool:
    """Whether the broker named in the output is gone, and every process that used it."""
    found = re.search(r"on port (\d+)", printed)
    assert found, printed
    deadline = time.monotonic() + 60
    while listens(int(found[1])) or list(users_of(f"127.0.0.1:{found[1]}")):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def users_of(servers: str) -> Iterator[int]:
    """Processes with these bootstrap servers in their environment."""
    wanted = f"CODECFLOW_BOOTSTRAP_SERVERS={servers}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0") and int(process.name) != os.getpid():
                yield int(process.name)
        except OSError:  # it has just ended
            continue
