"""Who trains and who tests, and what a model's answers are worth on cameras that had no say in it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest


def test_no_camera_is_in_two_splits_and_every_scored_one_has_labels(tmp_path: Path) -> None:
    from cameras import labels_of, read_split, source_of

    sources = read_split()
    assert {s.split for s in sources} == {"train", "validation", "test", "unused"}
    scored = [s for s in sources if s.split in ("validation", "test") and "fight_surv" in s.pattern]
    assert len(scored) > 100
    assert all(labels_of(s.pattern) for s in scored)
    assert source_of("labelled/gmdcsa24/s3_Fall_01.mp4", sources).camera == "bedroom"
    assert source_of("clips/nowhere.mp4", sources).split == "unused"
    twice = tmp_path / "split.csv"
    twice.write_text("source,camera,split,why\na.mp4,gate,train,\nb.mp4,gate,test,\n")
    with pytest.raises(SystemExit, match="camera gate is in two splits, test and train"):
        read_split(twice)


def test_labels_are_intervals_or_whole_clips(tmp_path: Path) -> None:
    from cameras import labels_of

    file = tmp_path / "labels.csv"
    file.write_text("file,start_s,end_s,person,vehicle\nx/a_*,,,yes,no\nx/b.mp4,2,4.5,,yes\n")
    assert labels_of("x/a_1.mp4", file) == {"person": [(0.0, float("inf"), 1)], "vehicle": [(0.0, float("inf"), 0)]}
    assert labels_of("x/b.mp4", file) == {"vehicle": [(2.0, 4.5, 1)]}
    assert labels_of("x/c.mp4", file) == {}


def test_auc_f1_and_the_threshold_between() -> None:
    from cameras import auc, best_threshold, f1

    p, yes = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert auc(p, yes) == 0.75
    assert np.isnan(auc(p, np.ones(4, bool)))
    assert f1(p >= 0.5, yes) == pytest.approx(2 / 3)
    assert 0.42 < best_threshold(np.array([0.1, 0.3, 0.7, 0.9]), yes) < 0.58


def test_a_report_scores_each_camera_at_the_threshold_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cameras import report

    rows = []
    # All others separate at 0.3; one camera alone would have 0.9.
    for stem, noes, yeses in (
        ("fight/fi002", (0.1, 0.2), (0.4, 0.5)),
        ("noFight/nofi003", (0.1, 0.2), (0.4, 0.6)),
        ("fight/fi074", (0.8, 0.85), (0.95, 0.99)),
    ):
        for label, values in (("no", noes), ("yes", yeses)):
            rows += [("replenish/none", f"{stem}.mp4", "Is a vehicle in view?", label, p) for p in values]
    rows.append(("all/all", "fight/fi002.mp4", "Is a vehicle in view?", "no", 0.9))
    file = tmp_path / "answers.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerows([("policy", "file", "question", "label", "p_yes"), *rows])
    found = report([file], "replenish/none", ["validation", "test"])["vehicle"]
    assert found["validation"]["cameras"] == 2
    assert found["test"]["cameras"] == 1
    assert found["all"]["windows"] == 12
    assert found["test"]["f1"][0] == pytest.approx(2 / 3)  # two false alarms
    assert found["test"]["auc"][0] == 1.0
    assert found["all"]["f1"][1] <= found["all"]["f1"][0] <= found["all"]["f1"][2]
    assert "| alley-10 | test | 4, 2 | 0.50 |" in capsys.readouterr().out
