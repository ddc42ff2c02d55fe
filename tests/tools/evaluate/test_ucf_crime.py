"""UCF-Crime's annotations are converted to a spec, and one command runs the published set-up on it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from codecflow.tools.evaluate.spec import read_spec
from tests.tools.bench.clips import encode
from tests.tools.evaluate.ucf import ANNOTATIONS, FOLDER, QUESTION, converted


def test_frames_become_seconds_at_the_videos_own_rate(make_spec: ModuleType, videos: Path, tmp_path: Path) -> None:
    code, out = converted(make_spec, tmp_path, videos, ANNOTATIONS)
    assert code == 0
    spec = read_spec(out)
    assert [(one.type, one.prompt) for one in spec.questions.values()] == [("yes-no", QUESTION)]
    labels = {clip.file.name: [(i.start_s, i.end_s) for i in clip.labels[QUESTION]] for clip in spec.clips}
    assert labels == {
        "Fighting003_x264.mp4": [(1.0, 2.0), (3.0, 3.6)],
        "RoadAccidents004_x264.mp4": [(0.0, 4.0)],
        "Normal_Videos_003_x264.mp4": [],
    }


def test_a_question_a_class(make_spec: ModuleType, videos: Path, tmp_path: Path) -> None:
    code, out = converted(make_spec, tmp_path, videos, ANNOTATIONS, "--ask", "class", "--prompt", "Do you see {event}?")
    assert code == 0
    asked = {clip.file.name: list(clip.labels) for clip in read_spec(out).clips}
    fight, accident = "Do you see a fight?", "Do you see a road accident?"
    assert asked == {
        "Fighting003_x264.mp4": [fight],
        "RoadAccidents004_x264.mp4": [accident],
        "Normal_Videos_003_x264.mp4": [fight, accident],
    }


def test_videos_that_are_not_there(
    make_spec: ModuleType, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ANNOTATIONS + "Arson011_x264.mp4  Arson  150  420  680  1267\n"
    assert converted(make_spec, tmp_path, videos, more)[0] == 2
    assert "1 of 4 videos are not there, such as Arson011_x264.mp4" in capsys.readouterr().err
    code, out = converted(make_spec, tmp_path, videos, more, "--present-only")
    assert (code, len(read_spec(out).clips)) == (0, 3)
    assert converted(make_spec, tmp_path, tmp_path, ANNOTATIONS, "--present-only")[0] == 2
    capsys.readouterr()
    assert converted(make_spec, tmp_path, tmp_path / "videos", ANNOTATIONS)[0] == 2
    assert capsys.readouterr().err == f"make_spec.py: {tmp_path / 'videos'}: no such folder\n"


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("Abuse028_x264.mp4 Abuse 165 240 -1", "line 2: 5 columns"),
        ("Abuse028_x264.mp4 Abuse 165 x -1 -1", "line 2: 165 x -1 -1: frames are whole numbers"),
        ("Abuse028_x264.mp4 Abuse 240 165 -1 -1", "line 2: frames 240 to 165"),
        ("Abuse028_x264.mp4 Abuse 165 -1 -1 -1", "line 2: frames 165 to -1"),
        ("Abuse028_x264.mp4 Abuse -1 -1 -1 -1", "line 2: class Abuse with 0 events"),
        ("Abuse028_x264.mp4 Normal 1 2 -1 -1", "line 2: class Normal with 1 events"),
        ("Abuse028_x264.mp4 Party 1 2 -1 -1", "line 2: class 'Party'"),
        ("Normal_Videos_003_x264.mp4 Normal -1 -1 -1 -1", "line 2: Normal_Videos_003_x264.mp4 is annotated twice"),
    ],
)
def test_one_line_tells_what_is_wrong_and_where(
    make_spec: ModuleType, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, printed: str
) -> None:
    first = "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n"
    assert converted(make_spec, tmp_path, videos, first + line + "\n")[0] == 2
    error = capsys.readouterr().err
    assert printed in error
    assert error.count("\n") == 1


def test_a_prompt_with_other_braces_is_refused(
    make_spec: ModuleType, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for prompt in ("Is there {it}?", "Is there {}?", "Is there {event?"):
        assert converted(make_spec, tmp_path, videos, ANNOTATIONS, "--prompt", prompt)[0] == 2
        assert "{event} is the only part in braces" in capsys.readouterr().err
    assert converted(make_spec, tmp_path, videos, ANNOTATIONS, "--prompt", "A crime?", "--ask", "class")[0] == 2
    assert "--ask class needs {event} in it" in capsys.readouterr().err
    assert converted(make_spec, tmp_path, videos, ANNOTATIONS, "--prompt", " ")[0] == 2
    assert "--prompt is empty" in capsys.readouterr().err
    assert converted(make_spec, tmp_path, videos, ANNOTATIONS, "--prompt", "A crime?")[0] == 0


def test_one_command_runs_the_published_set_up(model: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    encode(videos / "Fighting003_x264.mp4", "libx264", 64, 48, 250)
    annotations = tmp_path / "annotations.txt"
    annotations.write_text("Fighting003_x264.mp4  Fighting  80  250  -1  -1\n", encoding="utf-8")
    done = subprocess.run(
        [
            "bash",
            FOLDER / "reproduce.sh",
            annotations,
            videos,
            tmp_path / "out",
            "--policies",
            "all/all,motion/anchors",
        ],
        env=os.environ | {"MODELS": str(model), "PYTHON": sys.executable, "PROMPT": "Is there {event}?"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / model.name
    pictures = {f"{name}.{ending}" for name in ("f1-flops", "answers") for ending in ("png", "svg")}
    texts = {"report.txt", "scores.json", "answers.csv", "videos.txt", "videos.json"}
    assert texts | pictures == {path.name for path in folder.iterdir()}
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert list(scores) == ["all/all", "motion/anchors", "run"]
    run = scores["run"]
    assert (run["window_s"], run["stride_s"], run["fps"], run["transcode"]) == ("40", "8", "2", "fps=2,gop=16")
    with (folder / "answers.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["policy"] == "all/all"]
    assert [(row["start_s"], row["end_s"], row["label"]) for row in rows] == [
        ("0.0", "8.0", ""),  # the event starts at 7.9 s
        ("0.0", "16.0", "yes"),
        ("0.0", "24.0", "yes"),
    ]
    assert {row["question"] for row in rows} == {
        QUESTION.removesuffix(" in this video? Answer with yes or no only.") + "?"
    }
    video_figures = json.loads((folder / "videos.json").read_text(encoding="utf-8"))
    assert list(video_figures) == ["all/all", "motion/anchors", "run"]
    assert (video_figures["run"]["windows"], video_figures["run"]["with_event"]) == (1, 1)
    assert video_figures["all/all"]["recall"] == float(rows[-1]["answer"] == "yes")
    for table in ("report.txt", "videos.txt"):
        assert "MEANINGLESS SCORES" in (folder / table).read_text(encoding="utf-8")


def test_an_interpreter_without_codecflow_is_one_line(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    done = subprocess.run(
        ["bash", FOLDER / "reproduce.sh", "annotations.txt", "videos", tmp_path / "out"],
        env=os.environ | {"PYTHON": str(bare)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "cannot import codecflow" in done.stderr
    assert not (tmp_path / "out").exists()
