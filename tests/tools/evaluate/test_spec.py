"""Specs: their content, and one clear error line for each invalid one."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from codecflow.errors import ConfigError
from codecflow.tools.evaluate.spec import read_spec

ROOT = Path(__file__).parents[3]
HEADER = "file,start_s,end_s,question,type,answer\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / name).touch()
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "spec.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_questions_clips_and_intervals(folder: Path) -> None:
    spec = read_spec(
        written(
            folder,
            HEADER
            + 'clips/a.mp4,1,2.5,"Anyone, there?",yes-no,Yes\n'
            + "\n"
            + "clips/a.mp4,4,6,What?,choice,a car\n"
            + 'clips/b.mp4,,,"Anyone, there?",yes-no,no\n'
            + "clips/b.mp4,,,What?,choice,a bus\n"
            + 'clips/a.mp4,4,6,"Anyone, there?",yes-no,yes\n'
            + "clips/b.mp4,0,3,Tell.,text,A bus stops.\n",
        )
    )
    a, b = spec.clips
    assert (a.file, b.file) == (folder / "clips" / "a.mp4", folder / "clips" / "b.mp4")
    assert [(one.start_s, one.end_s, one.answer) for one in a.labels["Anyone, there?"]] == [
        (1, 2.5, "yes"),
        (4, 6, "yes"),
    ]
    assert b.labels["Anyone, there?"] == []
    assert [(one.start_s, one.end_s) for one in b.labels["What?"]] == [(0, math.inf)]
    assert spec.questions["What?"].labels == ("a car", "a bus")
    assert [question.type for question in spec.questions_of(b)] == ["yes-no", "choice", "text"]
    assert [question.prompt for question in spec.questions_of(a)] == ["Anyone, there?", "What?"]


def test_a_file_is_one_clip_however_it_is_spelt(folder: Path) -> None:
    rows = "clips/a.mp4,1,2,Who?,yes-no,yes\n./clips/../clips/a.mp4,3,4,Who?,yes-no,yes\n"
    (clip,) = read_spec(written(folder, HEADER + rows)).clips
    assert [one.start_s for one in clip.labels["Who?"]] == [1, 3]


@pytest.mark.parametrize(
    ("rows", "line", "printed"),
    [
        ("clips/c.mp4,0,1,Q?,yes-no,yes", 2, "clips/c.mp4: no such file"),
        ("clips/a.mp4,0,1,Q?,maybe,yes", 2, "type 'maybe': use one of text, yes-no, choice"),
        ("clips/a.mp4,0,1,Q?,yes-no,perhaps", 2, "answer 'perhaps': yes or no"),
        ("clips/a.mp4,0,1,,yes-no,yes", 2, "no question"),
        ("clips/a.mp4,0,1,Q?,text,", 2, "no answer"),
        (",0,1,Q?,text,x", 2, "no file"),
        ("clips/a.mp4,2,1,Q?,yes-no,yes", 2, "0 <= start_s < end_s"),
        ("clips/a.mp4,-1,1,Q?,yes-no,yes", 2, "0 <= start_s < end_s"),
        ("clips/a.mp4,x,1,Q?,yes-no,yes", 2, "start_s 'x'"),
        ("clips/a.mp4,,1,Q?,yes-no,yes", 2, "or leave both empty"),
        ("clips/a.mp4,0,nan,Q?,yes-no,yes", 2, "0 <= start_s < end_s"),
        ("clips/a.mp4,0,1,Q?,yes-no", 2, "5 cells, but the header has 6"),
        ("clips/a.mp4,0,1,Q?,yes-no,yes\nclips/b.mp4,0,1,Q?,text,x", 3, "has type 'yes-no' in line 2"),
        ("clips/a.mp4,,,Q?,yes-no,no\nclips/a.mp4,0,1,Q?,yes-no,yes", 3, "line 2 says never"),
        ("clips/a.mp4,0,1,Q?,yes-no,yes\nclips/a.mp4,,,Q?,yes-no,no", 3, "line 2 gives a time"),
        ("clips/a.mp4,0,1,Q?,yes-no,no\nclips/a.mp4,,,Q?,yes-no,no", 3, "line 2 gives a time"),
        ("clips/a.mp4,,,Q?,yes-no,no\nclips/a.mp4,0,1,Q?,yes-no,no", 3, "line 2 says never"),
        ("clips/a.mp4,0,3,Q?,yes-no,yes\nclips/a.mp4,2,4,Q?,yes-no,no", 3, "same time as in line 2"),
        ("clips/a.mp4,0,3,Q?,choice,x\nclips/a.mp4,2,4,Q?,choice,y", 3, "same time as in line 2"),
        ("clips/a.mp4,0,3,Q?,choice,x", 2, "two answers or more"),
        ("clips/a.mp4,0,1,Q?,yes-no,yes\n\nclips/a.mp4,9,1,Q?,yes-no,yes", 4, "start_s '9'"),
    ],
)
def test_one_line_tells_what_is_wrong_and_where(folder: Path, rows: str, line: int, printed: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_spec(written(folder, HEADER + rows + "\n"))
    assert f"spec.csv line {line}: " in str(raised.value)
    assert printed in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", "line 1: columns none: use file,start_s,end_s,question,type,answer"),
        ("file,start,end\n", "line 1: columns file,start,end"),
        (HEADER, "no rows after its header"),
    ],
)
def test_a_spec_without_rows_or_columns(folder: Path, text: str, printed: str) -> None:
    with pytest.raises(ConfigError, match=printed):
        read_spec(written(folder, text))


def test_no_such_spec(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv: cannot be read"):
        read_spec(folder / "none.csv")


def test_the_bundled_spec_says_what_the_clips_events_say() -> None:
    spec = read_spec(ROOT / "evaluation" / "specs" / "bundled.csv")
    (clip,) = spec.clips
    with (ROOT / "tests" / "data" / "EVENTS.csv").open(newline="", encoding="utf-8") as file:
        events = [row for row in csv.DictReader(file) if row["file"] == clip.file.name]
    expected = [(float(row["start_s"]), float(row["end_s"])) for row in events if row["event"] == "person present"]
    assert len(expected) == 6
    assert [(one.start_s, one.end_s) for one in clip.labels["Is a person in view?"]] == expected
    assert clip.labels["Is a vehicle in view?"] == []
