"""Each of UCF-Crime's videos gets one verdict from the answers about its windows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.tools.evaluate.ucf import ANNOTATIONS, converted, script


@pytest.fixture(scope="module")
def score_videos() -> ModuleType:
    return script("score_videos")


ALARMS: dict[str, list[tuple[str, str, str]]] = {
    # Answers of all/all and motion/anchors in windows of 8, 16, 24, 32 and 40 s and in the one from 8 to 48 s.
    "Fighting003_x264.mp4": [("yes", "no", "1"), *[("no", "no", "1")] * 3, ("no", "yes", "1"), ("yes", "no", "1")],
    "RoadAccidents004_x264.mp4": [("yes", "no", "1"), ("yes", "no", "1")],
    "Normal_Videos_003_x264.mp4": [("yes", "yes", "1"), *[("no", "no", "1")] * 4, ("no", "yes", "3")],
}


def answered(folder: Path) -> Path:
    """A folder as written by codecflow eval. Fighting's event is from 1 to 3.6 s, RoadAccidents' from 0 to 4 s."""
    folder.mkdir()
    with (folder / "answers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("policy", "file", "window", "start_s", "end_s", "question", "answer", "p_yes", "flops"))
        for place, policy in enumerate(("all/all", "motion/anchors")):
            for name, windows in ALARMS.items():
                for window, said in enumerate(windows):
                    p_yes, flops = 0.9 if said[place] == "yes" else 0.1, int(said[2]) * (4 - 3 * place)
                    start_s, end_s = max(0, window - 4) * 8, (window + 1) * 8
                    writer.writerow((policy, name, window, start_s, end_s, "?", said[place], p_yes, flops))
    (folder / "scores.json").write_text('{"run": {"model": "that-one", "trained": true}}', encoding="utf-8")
    return folder


def test_a_video_is_what_one_of_its_full_windows_says(
    make_spec: ModuleType, score_videos: ModuleType, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, spec = converted(make_spec, tmp_path, videos, ANNOTATIONS)
    folder = answered(tmp_path / "model")
    capsys.readouterr()
    assert score_videos.main([str(spec), str(folder)]) == 0
    out = capsys.readouterr().out
    assert "that-one: a verdict a video, 3 videos, 2 with an event (always yes: F1 0.800)" in out
    printed = json.loads(out.splitlines()[-1])
    # The windows of 8 to 32 s do not count, except for RoadAccidents, whose longest window has 16 s: 5 are left.
    assert printed["run"] == {
        "model": "that-one", "trained": True, "videos": 3, "with_event": 2, "windows": 5, "unanswered": 0, "least": 1,
    }  # fmt: skip
    full, pruned = printed["all/all"], printed["motion/anchors"]
    # all/all: both events, no false alarm. motion/anchors: Fighting, not RoadAccidents, and a false alarm.
    assert (full["precision"], full["recall"], full["f1"], full["auc"]) == (1, 1, 1, 1)
    assert (pruned["precision"], pruned["recall"], pruned["f1"], pruned["f1_change"]) == (0.5, 0.5, 0.5, -0.5)
    assert pruned["auc"] == (0.5 + 0) / 2  # a tie with the normal video, and below it
    # Windows: Fighting's event is in the one from 0 to 40 s, not in the one from 8 to 48 s.
    assert full["windows_f1"] == pytest.approx(2 / (2 + 1 + 1))
    assert pruned["windows_f1"] == pytest.approx(2 / (2 + 1 + 1))
    assert (full["flops_share"], pruned["flops_share"]) == (1, 0.25)

    assert score_videos.main([str(spec), str(folder), "--least", "2"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (printed["all/all"]["recall"], printed["all/all"]["precision"]) == (0, None)


def test_questions_about_one_window_are_one_verdict(
    make_spec: ModuleType, score_videos: ModuleType, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, spec = converted(make_spec, tmp_path, videos, ANNOTATIONS, "--ask", "class")
    folder = answered(tmp_path / "model")
    with (folder / "answers.csv").open("a", newline="", encoding="utf-8") as file:
        row = ("all/all", "Normal_Videos_003_x264.mp4", 5, 8, 48, "another?", "yes", 0.8, 4)
        csv.writer(file).writerow(row)
    assert score_videos.main([str(spec), str(folder)]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["all/all"]["precision"] == pytest.approx(2 / 3, abs=1e-6)
    assert printed["run"]["windows"] == 5


def test_answers_that_cannot_be_scored_are_one_line(
    make_spec: ModuleType, score_videos: ModuleType, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, spec = converted(make_spec, tmp_path, videos, ANNOTATIONS)
    folder = answered(tmp_path / "model")
    path, good = folder / "answers.csv", (folder / "answers.csv").read_text(encoding="utf-8")

    def printed(*options: str) -> str:
        capsys.readouterr()
        assert score_videos.main([str(spec), str(folder), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "--least 0: use 1 or more" in printed("--least", "0")
    path.write_text(good.replace("0.9", "high", 1), encoding="utf-8")
    assert "answers.csv line 2: no answer to a yes-no question" in printed()
    path.write_text(good.replace("all/all", "all/none"), encoding="utf-8")
    assert "answers.csv: no answers of all/all" in printed()
    path.write_text(good.replace("Normal_Videos_003", "Normal_Videos_004"), encoding="utf-8")
    assert "answers about Normal_Videos_004_x264.mp4" in printed()
    path.write_text(good, encoding="utf-8")
    (folder / "scores.json").write_text("", encoding="utf-8")
    assert "scores.json: not codecflow eval's last line" in printed()
    path.unlink()
    assert "answers.csv: cannot be read" in printed()
