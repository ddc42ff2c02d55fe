"""`codecflow bench producer`: its JSON line, and the two guaranteed figures, with tolerance for a busy machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codecflow.errors import SourceError
from codecflow.tools.bench.producer import run
from tests.codec.clips import encode

CLIP = Path(__file__).parents[2] / "data" / "intel_one-by-one-person-detection.mp4"


def test_speeds_are_reported_and_metadata_are_little_beside_the_pictures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(CLIP, repeats=2, seconds=30)
    *table, last = capsys.readouterr().out.strip().splitlines()
    figures = json.loads(last)
    assert figures.keys() >= {"decode_per_s", "signal_per_s", "ratio", "metadata_share"}
    assert figures["ratio"] == pytest.approx(figures["signal_per_s"] / figures["decode_per_s"], rel=0.01)
    assert figures["ratio"] > 0
    assert 0.03 < figures["metadata_share"] < figures["metadata_share_real_time"] <= 0.08
    assert figures["wire_encode_us"] > 0
    assert figures["wire_decode_us"] > 0
    assert "decode and signal" in "\n".join(table)


def test_other_codecs_and_clips_without_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(encode(tmp_path / "clip", "av1"), repeats=1)
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["signal_per_s"] > 0
    with pytest.raises(SourceError, match="no such file"):
        run(tmp_path / "none.mp4", repeats=1)
