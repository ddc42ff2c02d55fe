"""Labelled clips as `codecflow eval` reads them (docs/explanation/evaluation.md): one row a run of equal answers."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import questions as q
from answer_labels import certain
from bank import Facts
from maker import FPS, NEWEST

ASKED = ("person", "vehicle", "moving", "fall", "fight", "left_behind", "animal", "bag", "where", "count")

Row = tuple[str, float | str, float | str, str, str, str]


def write_spec(path: Path, rows: Iterable[Row]) -> None:
    """Writes `rows`, less those of a choice between fewer than two answers, which is none."""
    rows = list(rows)
    answers: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        answers[row[3]].add(row[5])
    rows = [row for row in rows if row[4] != "choice" or len(answers[row[3]]) > 1]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "start_s", "end_s", "question", "type", "answer"])
        writer.writerows(rows)


def rows_of(file: str, name: str, answers: Sequence[str | None], edges: Sequence[float]) -> list[Row]:
    """Rows of one file and question. Answer i holds from edges[i] to edges[i + 1]; None: it is not known then."""
    kind = "yes-no" if name in q.YES_NO else "choice"
    rows: list[Row] = []
    for answer, run in groupby(range(len(answers)), answers.__getitem__):
        places = list(run)
        if answer is not None:
            rows.append((file, edges[places[0]], edges[places[-1] + 1], q.QUESTIONS[name][0], kind, answer))
    if kind == "choice" or not rows:
        return rows
    yes = [row for row in rows if row[5] == "Yes"]
    if None not in answers:  # then all else is no
        return yes or [(file, "", "", q.QUESTIONS[name][0], kind, "No")]
    if len(yes) == len(rows):
        # Only beside a "no" with times is left out what no row covers: this one covers nothing of the file.
        rows.append((file, edges[-1], edges[-1] + 1, q.QUESTIONS[name][0], kind, "No"))
    return rows


def scene_rows(facts: Facts, clips: Iterable[dict[str, Any]], window: int) -> Iterable[Row]:
    """Rows of made clips, `{name}.mp4` each, on what each of their strides makes certain in windows of `window` frames."""
    for clip in clips:
        part = {name: values[clip["start"] : clip["start"] + clip["length"]] for name, values in facts.items()}
        ends = range(NEWEST, clip["length"] + 1, NEWEST)
        answers_at = [certain(part, end, window) for end in ends]
        edges = [0.0, *(end / FPS for end in ends)]
        for name in ASKED:
            yield from rows_of(f"{clip['name']}.mp4", name, [answers.get(name) for answers in answers_at], edges)
