"""`codecflow model tiny` and `codecflow bench window`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands import codecflow

CLIP = Path(__file__).parent.parent / "data" / "intel_one-by-one-person-detection.mp4"


def test_a_small_checkpoint_is_made_and_measured(tmp_path: Path) -> None:
    made = codecflow("model", "tiny", "--out", tmp_path / "tiny")
    assert made.returncode == 0, made.stderr
    assert "untrained internvl" in made.stdout
    assert json.loads((tmp_path / "tiny" / "config.json").read_text())["codecflow_untrained"] is True
    measured = codecflow(
        "bench", "window", CLIP, "--model", tmp_path / "tiny", "--device", "cpu", "--policies", "replenish/none",
        "--window", "4", "--stride", "2", "--slides", "1",
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    assert "answers are not" in measured.stdout
    assert json.loads(measured.stdout.splitlines()[-1])["results"][0]["flops_share"] < 1
