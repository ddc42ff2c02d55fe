"""The spec of an evaluation: clips, questions and labelled intervals, and the right answer in one window."""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codecflow.errors import ConfigError
from codecflow.messages import QUESTION_TYPES, Question

COLUMNS = ("file", "start_s", "end_s", "question", "type", "answer")


@dataclass(frozen=True, slots=True)
class Interval:
    """[start_s, end_s) in which the answer is `answer`. `line`: its line in the spec."""

    start_s: float
    end_s: float
    answer: str
    line: int


@dataclass(slots=True)
class Clip:
    """One file, and for each of its questions the intervals in which the answer is known."""

    file: Path
    labels: dict[str, list[Interval]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spec:
    """`questions`: by their text, which is their id's key too. `clips`: in the order of the spec."""

    questions: dict[str, Question]
    clips: list[Clip]

    def questions_of(self, clip: Clip) -> tuple[Question, ...]:
        return tuple(self.questions[prompt] for prompt in clip.labels)


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    file: Path
    times: tuple[float, float] | None
    question: str
    type: str
    answer: str


def read_spec(path: Path) -> Spec:
    """Reads the spec from a file; relative paths are relative to its folder. Raises ConfigError with the offending line."""
    rows = _rows(path)
    kinds: dict[str, _Row] = {}
    answers: dict[str, dict[str, int]] = {}
    clips: dict[Path, Clip] = {}
    never: dict[tuple[Path, str], int] = {}
    for row in rows:
        first = kinds.setdefault(row.question, row)
        if row.type != first.type:
            raise _bad(
                path, row.line, f"type {row.type!r}, but this question has type {first.type!r} in line {first.line}"
            )
        answers.setdefault(row.question, {}).setdefault(row.answer, row.line)
        labels = clips.setdefault(row.file, Clip(row.file)).labels.setdefault(row.question, [])
        here = (row.file, row.question)
        if row.type == "yes-no" and row.answer == "no" and row.times is None:
            if labels:
                raise _bad(path, row.line, f"never yes in this file, but line {labels[0].line} gives a time")
            never[here] = row.line
            continue
        if here in never:
            raise _bad(path, row.line, f"a time in this file, but line {never[here]} says never yes")
        start_s, end_s = row.times or (0.0, math.inf)
        for other in labels:
            if other.answer != row.answer and other.start_s < end_s and start_s < other.end_s:
                raise _bad(
                    path, row.line, f"another answer to the same question at the same time as in line {other.line}"
                )
        labels.append(Interval(start_s, end_s, row.answer, row.line))
    questions = {}
    for number, (prompt, row) in enumerate(kinds.items(), 1):
        known = tuple(answers[prompt])
        if row.type == "choice" and len(known) < 2:
            raise _bad(
                path, row.line, "a choice has two answers or more: no other row of this question gives another one"
            )
        questions[prompt] = Question(f"q{number}", prompt, row.type, known if row.type == "choice" else ())  # type: ignore[arg-type]
    return Spec(questions, list(clips.values()))


def _rows(path: Path) -> list[_Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if sorted(header) != sorted(COLUMNS):
                raise _bad(path, 1, f"columns {','.join(header) or 'none'}: use {','.join(COLUMNS)}")
            rows = []
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    if len(cells) != len(header):
                        raise _bad(
                            path, reader.line_num, f"{len(cells)} cells, but the header has {len(header)} columns"
                        )
                    rows.append(
                        _row(path, reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True)))
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"spec {path}: cannot be read ({error}); give a CSV file") from None
    if not rows:
        raise ConfigError(f"spec {path}: no rows after its header: nothing to evaluate")
    return rows


def _row(path: Path, line: int, cells: dict[str, str]) -> _Row:
    if not cells["file"]:
        raise _bad(path, line, "no file")
    file = Path(os.path.normpath(path.parent / cells["file"]))  # one clip, however it is spelt
    if not os.path.isfile(file):
        raise _bad(path, line, f"file {cells['file']}: no such file in {path.parent.resolve()}")
    if cells["type"] not in QUESTION_TYPES:
        raise _bad(path, line, f"type {cells['type']!r}: use one of {', '.join(QUESTION_TYPES)}")
    for column in ("question", "answer"):
        if not cells[column]:
            raise _bad(path, line, f"no {column}")
    times, answer = _times(path, line, cells), cells["answer"]
    if cells["type"] == "yes-no":
        answer = answer.lower()
        if answer not in ("yes", "no"):
            raise _bad(path, line, f"answer {cells['answer']!r}: yes or no, for type yes-no")
    return _Row(line, file, times, cells["question"], cells["type"], answer)


def _times(path: Path, line: int, cells: dict[str, str]) -> tuple[float, float] | None:
    if not cells["start_s"] and not cells["end_s"]:
        return None
    try:
        start_s, end_s = float(cells["start_s"]), float(cells["end_s"])
    except ValueError:
        start_s = end_s = math.nan
    if not (0 <= start_s < end_s < math.inf):
        times = f"start_s {cells['start_s']!r}, end_s {cells['end_s']!r}"
        raise _bad(path, line, f"{times}: use seconds with 0 <= start_s < end_s, or leave both empty")
    return start_s, end_s


def _bad(path: Path, line: int, what: str) -> ConfigError:
    return ConfigError(f"spec {path} line {line}: {what}")


def label(kind: str, intervals: Sequence[Interval], start_s: float, end_s: float) -> str | None:
    """The right answer over the stride [start_s, end_s), or None: not scored.

    The answer whose intervals cover at least half of the stride. yes-no without intervals for no: no, where they cover
    nothing of it. All other strides are not scored, nor are those that two answers cover by half each.
    """
    stride = end_s - start_s
    covered: dict[str, float] = defaultdict(float)
    for answer in {interval.answer for interval in intervals}:
        covered[answer] = _covered([one for one in intervals if one.answer == answer], start_s, end_s)
    # Times are decimal, strides are fractions: tolerates rounding errors at exactly half of a stride.
    half = stride / 2 - 1e-9
    right = [answer for answer, seconds in covered.items() if seconds >= half]
    if len(right) == 1:
        return right[0]
    if kind == "yes-no" and "no" not in covered and not any(seconds > 1e-9 for seconds in covered.values()):
        return "no"
    return None


def _covered(intervals: Sequence[Interval], start_s: float, end_s: float) -> float:
    """Seconds of [start_s, end_s) within any of `intervals`, which may overlap."""
    total, reached = 0.0, start_s
    for one in sorted(intervals, key=lambda interval: interval.start_s):
        begin, end = max(one.start_s, reached), min(one.end_s, end_s)
        if end > begin:
            total, reached = total + end - begin, end
    return total
