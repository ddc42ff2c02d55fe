"""Everything that an evaluation ends with: tables, pictures, a file of the answers, one JSON line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from codecflow.bench.table import print_json

from .answers import Answers
from .curves import draw_curves
from .matched import matched
from .report import UNTRAINED, document, print_matched, print_standings, write_answers
from .scoring import score


def tell(answers: Answers, target: str, title: str, run: Mapping[str, object], out: Path | None) -> None:
    """Prints, and writes to the folder `out`. `target`: at whose FLOPs others are compared, if it ran. `run`: what ran, for
    the JSON line; `trained` among it. Raises ConfigError when a file cannot be written."""
    trained, told = bool(run["trained"]), dict(run)
    standings = score(tuple(answers.spec.questions.values()), answers.by_contender, answers.labels)
    print_standings(standings, title, trained)
    chosen = next((one for one in standings if one.name == target), None)
    rivals = matched(standings, chosen) if chosen else []
    if chosen and rivals:
        print_matched(chosen, rivals, trained)
    if not trained:
        told["scores"] = UNTRAINED
    if out is not None:
        pictures = [out / "f1-flops.png", out / "f1-flops.svg"]
        draw_curves(standings, title, trained, pictures)
        write_answers(out / "answers.csv", answers.spec, answers.by_contender, answers.labels)
        told["files"] = [str(path) for path in (*pictures, out / "answers.csv")]
    if not trained:
        print(f"codecflow: {UNTRAINED}", file=sys.stderr, flush=True)
    print_json(document(standings, target, rivals, told))
