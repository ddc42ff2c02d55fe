"""`codecflow bench policies` on real clips: the figures match what the policies guarantee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands import Done, codecflow
from tests.tools.bench.clips import CLIP, encode

POLICIES = {
    "all",
    "motion",
    "motion-sampled",
    "replenish",
    "replenish-mean",
    "replenish-rolling",
    "replenish-once",
    "replenish-rolling-once",
    "replenish-background",
}


def bench(*arguments: str | Path) -> Done:
    return codecflow("bench", "policies", *arguments)


def figures(*arguments: str | Path) -> dict[str, dict[str, dict[str, float]]]:
    done = bench(*arguments)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return document


@pytest.fixture(scope="module")
def bundled() -> dict[str, dict[str, float]]:
    """The bundled clip, whole, at the defaults: 2 frames/s, 448x448, 28-pixel tokens, an anchor every 8 s."""
    return figures(CLIP)[CLIP.name]


def test_replenish_keeps_little_and_nothing_goes_stale(bundled: dict[str, dict[str, float]]) -> None:
    assert set(bundled) == POLICIES
    for name in ("all", "replenish", "replenish-rolling"):
        assert bundled[name]["stale_tokens"] == 0
        assert bundled[name]["stale"] == 0
    for name in ("replenish-once", "replenish-rolling-once", "replenish-background"):  # exposure drifts for longer
        assert bundled[name]["stale"] < 0.25
    assert bundled["replenish"]["kept"] <= 14
    assert 0 < bundled["replenish"]["gops_decoded"] < bundled["all"]["gops_decoded"] == 100
    assert bundled["motion"]["kept"] >= 3 * bundled["replenish"]["kept"]
    assert bundled["all"]["kept"] == bundled["all"]["kept_total"] == 100


def test_staleness_is_seen_where_it_is(bundled: dict[str, dict[str, float]]) -> None:
    """The measurement itself: vectors of the sampled picture alone miss motion between samples."""
    assert bundled["motion-sampled"]["kept"] < 1.2 * bundled["replenish"]["kept"]
    assert bundled["motion-sampled"]["stale"] > 5


def test_the_signal_certifies_much_and_the_detail_rule_costs_some_of_it(bundled: dict[str, dict[str, float]]) -> None:
    default, mean_alone = bundled["replenish"], bundled["replenish-mean"]
    assert mean_alone["kept"] <= default["kept"] <= mean_alone["kept"] + 6
    assert mean_alone["certified"] > 55
    assert 50 < default["certified"] < mean_alone["certified"]
    assert default["certified"] + default["compared"] == pytest.approx(100)
    assert bundled["motion"]["certified"] == bundled["motion"]["compared"] == 0


def test_a_background_forces_nothing_and_windows_without_news_are_repeated(
    bundled: dict[str, dict[str, float]],
) -> None:
    assert bundled["replenish-background"]["kept_total"] < bundled["replenish-once"]["kept_total"]
    assert bundled["replenish-background"]["reused"] == 0, "no 8 s of the clip are still"
    still = figures(CLIP, "--seconds", "5.5", "--window", "3", "--stride", "1", "--anchor", "3")[CLIP.name]
    assert still["replenish-background"]["windows"] == 5
    assert still["replenish-background"]["reused"] >= 40
    assert still["replenish-once"]["reused"] < still["replenish-background"]["reused"]
    assert 0 == still["replenish-once"]["background"] < still["replenish-background"]["background"]


def test_coverage_once_a_window_costs_less_and_rolling_has_no_burst(bundled: dict[str, dict[str, float]]) -> None:
    assert bundled["replenish-once"]["kept_total"] < bundled["replenish"]["kept_total"]
    assert bundled["replenish-rolling"]["kept_total"] == pytest.approx(bundled["replenish"]["kept_total"], abs=1)
    assert bundled["replenish"]["peak"] == 100
    quiet = figures(CLIP, "--seconds", "5", "--anchor", "2")[CLIP.name]
    assert quiet["replenish"]["peak"] == 100
    assert quiet["replenish-rolling"]["peak"] <= 30


@pytest.mark.parametrize(
    ("codec", "name", "size"),
    [("mpeg4", "camera.avi", (176, 144)), ("mjpeg", "camera.mkv", (101, 75)), ("libx265", "portrait.mp4", (90, 158))],
)
def test_any_codec_and_any_size_work(tmp_path: Path, codec: str, name: str, size: tuple[int, int]) -> None:
    clip = encode(tmp_path / name, codec, *size, pictures=40)
    row = figures(clip, "--token", "56", "--anchor", "1")[clip.name]
    assert row["replenish"]["stale_tokens"] == 0
    assert 0 < row["replenish"]["kept"] < 60
    if codec != "mpeg4":
        assert row["motion"]["kept"] == 100, "without vectors nothing speaks against motion"


def test_clips_of_the_same_name_are_distinguished_and_a_chart_is_written(tmp_path: Path) -> None:
    clips = []
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        clips.append(encode(tmp_path / folder / "a.avi", "mpeg4", 64, 48, pictures=20))
    chart, zones = tmp_path / "chart.png", tmp_path / "zones.json"
    assert set(figures(*clips, "--plot", chart)) == {str(clip) for clip in clips}
    assert chart.read_bytes().startswith(b"\x89PNG")
    zones.write_text('[{"name": "left", "use": "ignore", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}]')
    right = figures(clips[0], "--zones", zones, "--window", "1", "--stride", "1", "--anchor", "1")[clips[0].name]
    assert right["all"]["kept"] == 100, "of what may be seen"
    assert 0 < right["all"]["held"] <= 2 * 16 * 8


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no-such-file.mp4"], 3, "no-such-file.mp4: no such file"),
        ([__file__], 3, "test_policies.py"),
        ([CLIP, "--fps", "0"], 2, "--fps '0'"),
        ([CLIP, "--anchor", "1/3"], 2, "not a whole number of frames"),
        ([CLIP, "--size", "450"], 2, "--size 450"),
        ([CLIP, "--plot", "no-such-folder/chart.png"], 2, "no-such-folder"),
        ([CLIP, "--zones", "no-such.json"], 2, "zones no-such.json: No such file"),
    ],
)
def test_what_cannot_work_is_one_clear_line(arguments: list[str | Path], code: int, words: str) -> None:
    done = bench(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_the_figures_in_the_docs_are_those_that_are_measured(bundled: dict[str, dict[str, float]]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "explanation" / "method.md").read_text()
    for name in (
        "motion",
        "motion-sampled",
        "replenish",
        "replenish-mean",
        "replenish-once",
        "replenish-rolling",
        "replenish-background",
    ):
        row = bundled[name]
        assert f"| {row['kept']:.1f} % | {row['kept_total']:.1f} % |" in text, (
            f"docs/explanation/method.md is out of date on {name}"
        )


def test_a_camera_of_one_picture_per_second_in_a_file_named_by_its_time(tmp_path: Path) -> None:
    clip = encode(tmp_path / "2024-08-20T13:28:35.mp4", "libx264", 160, 160, pictures=40, rate=1)
    (shares,) = figures(clip, "--fps", "1", "--size", "224").values()
    assert shares["motion"]["kept"] < 100
    assert shares["replenish-mean"]["certified"] > 0
