"""`codecflow bench gpu` and `bench still`, on a CPU: rows, figures and charts."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from codecflow.errors import ConfigError, SourceError
from codecflow.tools.bench import gpu_run, still
from codecflow.tools.bench.gpu_run import Options
from codecflow.tools.bench.sampling import published
from tests.tools.bench.clips import encode

CLIP = Path(__file__).parents[2] / "data" / "intel_one-by-one-person-detection.mp4"
SHORT = {"window_s": "1", "stride_s": "0.5", "anchor_s": "1", "slides": 2, "device": "cpu", "dtype": "float32"}


def test_rows_are_measured_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "full/replenish/replenish, background/replenish, 32 tokens/replenish, fp8 KV/replenish, fp8"
    gpu_run.run(
        Options(
            clips=[CLIP, encode(tmp_path / "other.avi", "mpeg4", 64, 48, pictures=40)],
            shapes="internvl-small,internvl-small",
            rows=rows,
            streams="1,8",
            max_s=0.001,
            plot=tmp_path / "gpu.png",
            **SHORT,  # type: ignore[arg-type]
        )
    )
    out = capsys.readouterr().out
    figures = json.loads(out.splitlines()[-1])
    results = figures["results"]
    assert {(r["row"], r["clip"]) for r in results} >= {
        (row, clip)
        for row in ("replenish", "replenish, background", "replenish, fp8")
        for clip in (CLIP.name, "other.avi")
    }
    assert not any("failed" in one for one in results)
    own = [r for r in results if r["clip"] == CLIP.name]
    full, again = (r for r in own if r["row"] == "full")
    assert full["faster"] == again["faster"] == 1  # each shape has its own reference
    assert full["tokens_kept"] == 1 > own[-1]["tokens_kept"]
    assert len(full["steps_ms"]) == 1  # more would exceed the time limit
    kept = next(r for r in own if r["row"] == "replenish" and r["streams"] == 8)
    assert kept["peak_share"] > 0  # above 1 if other processes slowed the measurement of the device's rate
    assert kept["p99_ms"] == pytest.approx(kept["steps_ms"][0], rel=1e-3)
    text = next(r for r in own if r["text_tokens"] == 32 and r["streams"] == 8)
    assert text["first_ms"] < text["steps_ms"][0]
    eighth = next(r for r in own if r["kv"] == "fp8" and r["streams"] == 8)
    assert eighth["kv_bytes"] < 0.3 * kept["kv_bytes"]
    assert (tmp_path / "gpu.png").stat().st_size > 10_000
    printed = tmp_path / "printed.txt"
    printed.write_text(out, encoding="utf-8")
    gpu_run.run(Options(results=printed, plot=tmp_path / "again.svg"))
    assert "<svg" in (tmp_path / "again.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "give a CLIP"),
        ({"clips": [CLIP], "rows": "full/fastest"}, "--rows 'fastest': use full / "),
        ({"clips": [CLIP], "streams": "1,7"}, "--streams '1,7': use some of 1,8,32,most"),
        ({"clips": [CLIP], "results": Path("x"), "plot": Path("y.png")}, "no clip"),
        ({"results": CLIP, "plot": Path("y.png")}, "give the output of codecflow bench gpu"),
    ],
)
def test_what_cannot_be_measured_or_drawn(options: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        gpu_run.run(Options(**options))  # type: ignore[arg-type]


def test_a_still_scene_is_hardly_decoded(tmp_path: Path) -> None:
    out = tmp_path / "still.mp4"
    still.run(CLIP, out, 2.0, 8.0)
    coded = [picture for picture, _ in published(out, Fraction(2))]
    assert len(coded) == 80
    assert sum(picture.keyframe for picture in coded) == 4
    with pytest.raises(SourceError, match="give more seconds"):
        still.run(CLIP, out, 0.05, 8.0)
    with pytest.raises(ConfigError, match="cannot be written"):
        still.run(CLIP, tmp_path / "no" / "still.mp4", 0.5, 1.0)
