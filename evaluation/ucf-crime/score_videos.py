#!/usr/bin/env python3
"""The answers of `codecflow eval`, scored the way the paper's table is said to be: one verdict a video.

    python score_videos.py OUT/spec.csv OUT/MODEL

OUT/MODEL is what eval wrote with --out. A video has an event where the spec gives it one, and is said to have one where at
least one of its windows is answered yes. Only full windows count, as the paper asks of nothing else; of a video that is too
short for one, its longest. The last column scores these windows each for itself: yes where any of an event is in the window.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from codecflow.errors import ConfigError
from codecflow.tools.evaluate import answer_scores, bootstrap
from codecflow.tools.evaluate.bootstrap import Estimate
from codecflow.tools.evaluate.contender_names import REFERENCE
from codecflow.tools.evaluate.report import UNTRAINED, estimate_text, json_number, number_text, percent_text
from codecflow.tools.evaluate.spec import Clip, read_spec
from codecflow.tools.report.table import print_json, print_table

COLUMNS = (
    "keep/refresh", "F1 (95 %)", "ΔF1 (95 %)", "precision", "recall", "AUC", "F1 of windows (95 %)", "FLOP %",
)  # fmt: skip

Place = tuple[str, int]
"""A video's name and the number of one of its windows."""


@dataclass(slots=True)
class VideoAnswer:
    """What a policy answered in one window, all its questions together: yes where one of them is. `p_yes`: the highest."""

    start_s: float
    end_s: float
    yes: bool = False
    p_yes: float = 0.0
    flops: int = 0


Answers = dict[str, dict[Place, VideoAnswer]]
"""By policy."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One policy's. `f1_change`: against all/all, drawn in pairs. `auc`: of the highest p(yes) of each video. `windows_f1`:
    of each window for itself. `flops_share`: of all/all's, over all windows."""

    precision: float
    recall: float
    f1: Estimate
    f1_change: Estimate
    auc: float
    windows_f1: Estimate
    flops_share: float


def read_answers(path: Path) -> Answers:
    """Raises ConfigError with the line at fault."""
    answers: Answers = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for row in reader:
                try:
                    place, span = (row["file"], int(row["window"])), (float(row["start_s"]), float(row["end_s"]))
                    yes, p_yes, flops = row["answer"] == "yes", float(row["p_yes"]), int(row["flops"])
                except (KeyError, TypeError, ValueError):
                    raise ConfigError(
                        f"{path} line {reader.line_num}: no answer to a yes-no question as codecflow eval writes them"
                    ) from None
                answer = answers.setdefault(row["policy"], {}).setdefault(place, VideoAnswer(*span))
                answer.yes, answer.p_yes = answer.yes or yes, max(answer.p_yes, p_yes)
                answer.flops += flops
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    if REFERENCE not in answers:
        raise ConfigError(f"{path}: no answers of {REFERENCE}, which the others are compared with")
    return answers


def full_windows(answers: Answers) -> list[Place]:
    """Of each video its longest windows that every policy answered, by all/all's times: others may look at less of one."""
    spans = {place: answer.end_s - answer.start_s for place, answer in answers[REFERENCE].items()}
    common = sorted(place for place in spans if all(place in of_one for of_one in answers.values()))
    longest: dict[str, float] = {}
    for place in common:
        longest[place[0]] = max(longest.get(place[0], 0.0), spans[place])
    return [place for place in common if spans[place] > longest[place[0]] - 1e-6]


def events(clips: Sequence[Clip]) -> dict[str, list[tuple[float, float]]]:
    """When each video has one, by its name, whatever was asked of it."""
    return {
        clip.file.name: [(i.start_s, i.end_s) for labels in clip.labels.values() for i in labels if i.answer == "yes"]
        for clip in clips
    }


def score(answers: Answers, known: Mapping[str, Sequence[tuple[float, float]]], least: int) -> dict[str, Scores]:
    """By policy. `least`: of a video's windows so many are yes where the video is."""
    places = full_windows(answers)
    videos = sorted({name for name, _ in places})
    number = {name: at for at, name in enumerate(videos)}
    windows_at = [(number[name], window) for name, window in places]
    times = answers[REFERENCE]
    truth = [_word(bool(known[name])) for name in videos]
    windows_truth = [
        _word(any(begin < times[place].end_s and times[place].start_s < end for begin, end in known[place[0]]))
        for place in places
    ]

    def draws(right: Sequence[str], predicted: Sequence[str], at: Sequence[tuple[int, int]]) -> answer_scores.Floats:
        drawn = bootstrap.Drawings(at, bootstrap.RESAMPLES).of(at)
        return bootstrap.of_outcomes(answer_scores.outcomes(right, predicted, ("yes",)), drawn)

    def of_videos(policy: str) -> answer_scores.Floats:
        alarms = dict.fromkeys(videos, 0)
        for place in places:
            alarms[place[0]] += answers[policy][place].yes
        return draws(truth, [_word(alarms[name] >= least) for name in videos], [(at, 0) for at in range(len(videos))])

    reference = of_videos(REFERENCE)
    whole = sum(answer.flops for answer in times.values())
    found = {}
    for policy, by_window in answers.items():
        own = of_videos(policy)
        highest = dict.fromkeys(videos, 0.0)
        for place in places:
            highest[place[0]] = max(highest[place[0]], by_window[place].p_yes)
        windows = draws(windows_truth, [_word(by_window[place].yes) for place in places], windows_at)
        precision, recall, _ = map(float, own[0])
        found[policy] = Scores(
            precision=precision,
            recall=recall,
            f1=bootstrap.estimate(own[:, 2]),
            f1_change=bootstrap.estimate(own[:, 2] - reference[:, 2]),
            auc=answer_scores.auc([highest[name] for name in videos], [right == "yes" for right in truth]),
            windows_f1=bootstrap.estimate(windows[:, 2]),
            flops_share=sum(one.flops for one in by_window.values()) / whole,
        )
    return found


def print_scores(scores: Mapping[str, Scores], model: str, trained: bool, counts: Mapping[str, int]) -> None:
    """A table for people, then one JSON line, as codecflow eval ends with."""
    total, positive = counts["videos"], counts["with_event"]
    always = f"always yes: F1 {2 * positive / (total + positive):.3f}" if positive else "no event in any"
    title = f"{model}: a verdict a video, {total} videos, {positive} with an event ({always})"
    print_table(
        title if trained else f"{UNTRAINED}\n{title}",
        COLUMNS,
        [
            [
                policy,
                estimate_text(one.f1),
                estimate_text(one.f1_change, signed=True),
                number_text(one.precision),
                number_text(one.recall),
                number_text(one.auc),
                estimate_text(one.windows_f1),
                percent_text(one.flops_share, 2),
            ]
            for policy, one in scores.items()
        ],
        note=f"a video is yes where {counts['least']} or more of its full windows are; {counts['windows']} such windows,"
        f" videos too short for any: {counts['unanswered']}; Δ: against {REFERENCE}, drawn in pairs; -: has no meaning here",
    )
    run = {"model": model, "trained": trained, **counts, **({} if trained else {"scores": UNTRAINED})}
    print_json({**{policy: _document(one) for policy, one in scores.items()}, "run": run})


def _document(one: Scores) -> dict[str, object]:
    numbers = ("precision", "recall", "auc", "flops_share")
    figures: dict[str, object] = {name: json_number(getattr(one, name)) for name in numbers}
    for name in ("f1", "f1_change", "windows_f1"):
        estimate: Estimate = getattr(one, name)
        figures[name] = json_number(estimate.value)
        figures[f"{name}_ci95"] = [json_number(estimate.low), json_number(estimate.high)]
    return figures


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


def _run(folder: Path) -> tuple[str, bool]:
    """The model's name and whether it is trained, as codecflow eval told. Raises ConfigError."""
    path = folder / "scores.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))["run"]
        return str(run["model"]), bool(run["trained"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not codecflow eval's last line ({error})") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The answers of codecflow eval, scored with one verdict a video.")
    parser.add_argument("spec", type=Path, help="what was asked, of make_spec.py")
    parser.add_argument("folder", type=Path, help="a model's answers.csv and scores.json")
    parser.add_argument("--least", type=int, default=1, help="a video is yes from so many windows on; default: 1")
    options = parser.parse_args(arguments)
    try:
        if options.least < 1:
            raise ConfigError(f"--least {options.least}: use 1 or more")
        known, answers = events(read_spec(options.spec).clips), read_answers(options.folder / "answers.csv")
        model, trained = _run(options.folder)
        windows = full_windows(answers)
        answered = {name for name, _ in windows}
        if strangers := sorted(answered - set(known)):
            raise ConfigError(f"{options.folder}: answers about {strangers[0]}, of which {options.spec} says nothing")
        counts = {
            "videos": len(answered),
            "with_event": sum(bool(known[name]) for name in answered),
            "windows": len(windows),
            "unanswered": len(set(known) - answered),
            "least": options.least,
        }
        print_scores(score(answers, known, options.least), model, trained, counts)
    except ConfigError as error:
        print(f"score_videos.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
