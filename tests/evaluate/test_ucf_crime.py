"""UCF-Crime's annotations become a spec, one command runs the published set-up on it, and each video gets a verdict."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from codecflow.evaluate.spec import read_spec
from tests.bench.clips import encode

FOLDER = Path(__file__).parents[2] / "evaluation" / "ucf-crime"
ANNOTATIONS = """\
Fighting003_x264.mp4  Fighting  11  20  31  36
RoadAccidents004_x264.mp4  RoadAccidents  1  40  -1  -1

Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1
"""


QUESTION = (
    "Is there abuse, an arrest, arson, an assault, a burglary, an explosion, a fight, a road accident, a robbery,"
    " a shooting, shoplifting, stealing or vandalism in this video? Answer with yes or no only."
)


def script(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # its dataclasses look themselves up there
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_spec() -> ModuleType:
    return script("make_spec")


@pytest.fixture(scope="module")
def score_videos() -> ModuleType:
    return script("score_videos")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, as the data set has it: 5 s at 10 frames/s each."""
    folder = tmp_path_factory.mktemp("ucf") / "videos"
    for name in (
        "Fighting/Fighting003_x264.mp4",
        "RoadAccidents/RoadAccidents004_x264.mp4",
        "Normal_Videos_003_x264.mp4",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        encode(folder / name, "libx264", 64, 48, 50)
    return folder


def converted(make_spec: ModuleType, folder: Path, videos: Path, text: str, *options: str) -> tuple[int, Path]:
    annotations, out = folder / "annotations.txt", folder / "specs" / "spec.csv"
    annotations.write_text(text, encoding="utf-8")
    code: int = make_spec.main([str(annotations), str(videos), "--out", str(out), *options])
    return code, out


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
    ("line", "told"),
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
    make_spec: ModuleType, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    first = "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n"
    assert converted(make_spec, tmp_path, videos, first + line + "\n")[0] == 2
    error = capsys.readouterr().err
    assert told in error
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


ALARMS: dict[str, list[tuple[str, str, str]]] = {
    # What all/all and motion/anchors answer in windows of 8, 16, 24, 32 and 40 s and in the one from 8 to 48 s.
    "Fighting003_x264.mp4": [("yes", "no", "1"), *[("no", "no", "1")] * 3, ("no", "yes", "1"), ("yes", "no", "1")],
    "RoadAccidents004_x264.mp4": [("yes", "no", "1"), ("yes", "no", "1")],
    "Normal_Videos_003_x264.mp4": [("yes", "yes", "1"), *[("no", "no", "1")] * 4, ("no", "yes", "3")],
}


def answered(folder: Path) -> Path:
    """A folder as codecflow eval leaves it. Fighting's event is from 1 to 3.6 s, RoadAccidents' from 0 to 4 s."""
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
    told = json.loads(out.splitlines()[-1])
    # The windows of 8 to 32 s do not count, but for RoadAccidents, which has no longer one than 16 s: 5 are left.
    assert told["run"] == {
        "model": "that-one", "trained": True, "videos": 3, "with_event": 2, "windows": 5, "unanswered": 0, "least": 1,
    }  # fmt: skip
    full, pruned = told["all/all"], told["motion/anchors"]
    # all/all: both events, no false alarm. motion/anchors: Fighting, not RoadAccidents, and a false alarm.
    assert (full["precision"], full["recall"], full["f1"], full["auc"]) == (1, 1, 1, 1)
    assert (pruned["precision"], pruned["recall"], pruned["f1"], pruned["f1_change"]) == (0.5, 0.5, 0.5, -0.5)
    assert pruned["auc"] == (0.5 + 0) / 2  # a tie with the normal video, and below it
    # Windows: Fighting's event is in that from 0 to 40 s, not in that from 8 to 48 s.
    assert full["windows_f1"] == pytest.approx(2 / (2 + 1 + 1))
    assert pruned["windows_f1"] == pytest.approx(2 / (2 + 1 + 1))
    assert (full["flops_share"], pruned["flops_share"]) == (1, 0.25)

    assert score_videos.main([str(spec), str(folder), "--least", "2"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["all/all"]["recall"], told["all/all"]["precision"]) == (0, None)


def test_questions_about_one_window_are_one_verdict(
    make_spec: ModuleType, score_videos: ModuleType, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, spec = converted(make_spec, tmp_path, videos, ANNOTATIONS, "--ask", "class")
    folder = answered(tmp_path / "model")
    with (folder / "answers.csv").open("a", newline="", encoding="utf-8") as file:
        row = ("all/all", "Normal_Videos_003_x264.mp4", 5, 8, 48, "another?", "yes", 0.8, 4)
        csv.writer(file).writerow(row)
    assert score_videos.main([str(spec), str(folder)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["all/all"]["precision"] == pytest.approx(2 / 3, abs=1e-6)
    assert told["run"]["windows"] == 5


def test_answers_that_cannot_be_scored_are_one_line(
    make_spec: ModuleType, score_videos: ModuleType, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, spec = converted(make_spec, tmp_path, videos, ANNOTATIONS)
    folder = answered(tmp_path / "model")
    path, good = folder / "answers.csv", (folder / "answers.csv").read_text(encoding="utf-8")

    def told(*options: str) -> str:
        capsys.readouterr()
        assert score_videos.main([str(spec), str(folder), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "--least 0: use 1 or more" in told("--least", "0")
    path.write_text(good.replace("0.9", "high", 1), encoding="utf-8")
    assert "answers.csv line 2: no answer to a yes-no question" in told()
    path.write_text(good.replace("all/all", "all/none"), encoding="utf-8")
    assert "answers.csv: no answers of all/all" in told()
    path.write_text(good.replace("Normal_Videos_003", "Normal_Videos_004"), encoding="utf-8")
    assert "answers about Normal_Videos_004_x264.mp4" in told()
    path.write_text(good, encoding="utf-8")
    (folder / "scores.json").write_text("", encoding="utf-8")
    assert "scores.json: not codecflow eval's last line" in told()
    path.unlink()
    assert "answers.csv: cannot be read" in told()


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
        ("0.0", "8.0", ""),  # the event begins at 7.9 s
        ("0.0", "16.0", "yes"),
        ("0.0", "24.0", "yes"),
    ]
    assert {row["question"] for row in rows} == {
        QUESTION.removesuffix(" in this video? Answer with yes or no only.") + "?"
    }
    videos_told = json.loads((folder / "videos.json").read_text(encoding="utf-8"))
    assert list(videos_told) == ["all/all", "motion/anchors", "run"]
    assert (videos_told["run"]["windows"], videos_told["run"]["with_event"]) == (1, 1)
    assert videos_told["all/all"]["recall"] == float(rows[-1]["answer"] == "yes")
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
