"""Everything that an evaluation ends with: tables, pictures, a file of the answers, one JSON line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from codecflow.tools.report.table import print_json

from .answers import Answers
from .curves import draw_curves
from .matched import matched
from .report import UNTRAINED, document, print_matched, print_policies, print_questions, write_answers
from .scoring import Standing, score
from .timeline import draw_timeline, thumbnail_times
from .timelines import pictures_at, timeline

MOST_CLIPS = 10
"""Clips whose answers over time are drawn: pictures of all clips of a data set nobody would look at."""


def tell(answers: Answers, target: str, title: str, run: Mapping[str, object], out: Path | None) -> None:
    """Prints, and writes to the folder `out`. `target`: at whose FLOPs others are compared, if it ran. `run`: what ran, for
    the JSON line; `trained` among it. Raises ConfigError when a file cannot be written."""
    trained, told = bool(run["trained"]), dict(run)
    standings = score(tuple(answers.spec.questions.values()), answers.by_contender, answers.labels)
    print_policies(standings, title, trained)
    chosen = next((one for one in standings if one.name == target), None)
    rivals = matched(standings, chosen) if chosen else []
    if chosen and rivals:
        print_matched(chosen, rivals, trained)
    print_questions(standings, trained)
    if not trained:
        told["scores"] = UNTRAINED
    if out is not None:
        write_answers(out / "answers.csv", answers.spec, answers.by_contender, answers.labels)
        pictures = [out / "f1-flops.png", out / "f1-flops.svg"]
        draw_curves(standings, title, trained, pictures)
        pictures += _timelines(answers, standings, target, run, out)
        told["files"] = [str(path) for path in (*pictures, out / "answers.csv")]
    if not trained:
        print(f"codecflow: {UNTRAINED}", file=sys.stderr, flush=True)
    print_json(document(standings, target, rivals, told))


def _timelines(
    answers: Answers, standings: Sequence[Standing], target: str, run: Mapping[str, object], out: Path
) -> list[Path]:
    """The pictures of the answers over time of the first clips, and where they lie."""
    clips, paths = answers.spec.clips, []
    for number in range(min(len(clips), MOST_CLIPS)):
        if (shown := timeline(answers, number, standings, target)) is None:
            continue
        stem = "answers" if len(clips) == 1 else f"answers-{number + 1}-{shown.file.stem}"
        files = [out / f"{stem}.png", out / f"{stem}.svg"]
        title = f"{run['model']}, asked every {run['stride_s']} s about {shown.file.name}"
        if not run["trained"]:
            title = UNTRAINED
        draw_timeline(shown, pictures_at(shown.file, thumbnail_times(shown.seconds)), title, files)
        paths += files
    if len(clips) > MOST_CLIPS:
        print(f"codecflow: answers over time are drawn of the first {MOST_CLIPS} clips", file=sys.stderr, flush=True)
    return paths
