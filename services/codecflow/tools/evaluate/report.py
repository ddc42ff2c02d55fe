"""Scores as tables for people and as JSON for programs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from codecflow.errors import ConfigError
from codecflow.tools.report.table import display_names, print_table

from .bootstrap import Estimate
from .scoring import Labels, Matched, QuestionScore, Results, Standing
from .spec import Spec

UNTRAINED = "MEANINGLESS SCORES: this checkpoint's weights are random, not trained"

POLICY_COLUMNS = (
    "keep/refresh", "windows", "mean F1", "Δ mean F1 (95 %)", "FLOP %", "tokens kept %", "tokens per window", "agree %",
    "mean |Δp(yes)|",
)  # fmt: skip
QUESTION_COLUMNS = (
    "keep/refresh",
    "n",
    "yes",
    "F1 (95 %)",
    "ΔF1 (95 %)",
    "precision (95 %)",
    "recall (95 %)",
    "AUC",
    "right %",
)


def print_policies(standings: Sequence[Standing], title: str, trained: bool) -> None:
    """Scores of each pair of policies over all questions. The first is the reference."""
    reference = standings[0].name
    print_table(
        _marked(title, trained),
        POLICY_COLUMNS,
        [
            [
                one.name,
                one.windows,
                number_text(one.f1),
                estimate_text(one.f1_change, signed=True, digits=3),
                percent_text(one.flops_share, 2),
                percent_text(one.tokens_kept),
                f"{one.tokens_window:.0f}",
                percent_text(one.agreement),
                number_text(one.dp_yes),
            ]
            for one in standings
        ],
        note=f"Δ, agree, |Δp(yes)|: against {reference}, Δ drawn in pairs; FLOPs are shares of {reference}'s, tokens of all"
        " new ones",
    )


def print_questions(standings: Sequence[Standing], trained: bool) -> None:
    """A table for each question."""
    for prompt in standings[0].questions:
        always = standings[0].questions[prompt].f1_always_yes
        asked = prompt if always is None else f"{prompt}  (always yes: F1 {always:.3f})"
        print_table(
            _marked(asked, trained),
            QUESTION_COLUMNS,
            [_row(one.name, one.questions[prompt]) for one in standings],
            note=f"n: labelled windows, yes: of them; ΔF1: against {standings[0].name}, drawn in pairs; -: has no"
            " meaning here",
        )


def print_matched(target: Standing, rivals: Sequence[Matched], reference: str, trained: bool) -> None:
    """Scores of the others at the FLOPs of `target`. `reference`: whose FLOPs are 100 %."""
    cost = percent_text(target.flops_share, 2)
    heading = (
        f"At {target.name}'s FLOPs, {cost} % of {reference}'s, for which it has a mean F1 of {number_text(target.f1)}"
    )
    print_table(
        _marked(heading, trained),
        ("other", "read from", "FLOP %", "mean F1", f"Δ to {target.name} (95 %)"),
        [
            [
                one.family,
                " and ".join(one.settings),
                percent_text(one.flops_share, 2)
                + {-1: " (no more expensive one ran)", 0: "", 1: " (no cheaper one ran)"}[one.outside],
                number_text(one.f1),
                estimate_text(one.change, signed=True, digits=3),
            ]
            for one in rivals
        ],
        note="mean F1: on the straight line between the settings just below and just above these FLOPs",
    )


def document(
    standings: Sequence[Standing], target: str, rivals: Sequence[Matched], run: Mapping[str, object]
) -> dict[str, object]:
    """{policy: {question: {f1, auc, n, ...}, flops_share, ...}, "matched": {...}, "run": {...}}; null for an undefined
    score."""
    matched = {
        one.family: {
            "settings": one.settings,
            "flops_share": json_number(one.flops_share),
            "f1": json_number(one.f1),
            "f1_change": json_number(one.change.value),
            "f1_change_ci95": [json_number(one.change.low), json_number(one.change.high)],
        }
        for one in rivals
    }
    policies = {one.name: _policy(one) for one in standings}
    return {**policies, **({"matched": {"to": target, **matched}} if rivals else {}), "run": dict(run)}


def write_answers(path: Path, spec: Spec, by_contender: Mapping[str, Results], labels: Labels) -> None:
    """One row per answer. Raises ConfigError when it cannot be written."""
    files = display_names([clip.file for clip in spec.clips])
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                [
                    "policy",
                    "file",
                    "window",
                    "start_s",
                    "end_s",
                    "question",
                    "label",
                    "answer",
                    "p_yes",
                    "tokens",
                    "flops",
                ]
            )
            for name, results in by_contender.items():
                for key, result in sorted(results.items(), key=lambda item: item[0][:2]):
                    tokens, flops = result.tokens, result.flops
                    writer.writerow(
                        [
                            name,
                            files[key[0]],
                            result.window,
                            result.start_s,
                            result.end_s,
                            result.prompt,
                            labels.get(key, ""),
                            result.answer,
                            "" if result.p_yes is None else f"{result.p_yes:.6f}",
                            tokens.refreshed + tokens.reused,
                            flops.vit + flops.llm,
                        ]
                    )
    except OSError as error:
        raise ConfigError(f"answers {path}: cannot be written ({error.strerror})") from error


def _row(name: str, score: QuestionScore) -> list[object]:
    return [
        name,
        score.n,
        "" if score.positive is None else score.positive,
        estimate_text(score.f1),
        estimate_text(score.f1_change, signed=True),
        estimate_text(score.precision),
        estimate_text(score.recall),
        number_text(score.auc),
        percent_text(score.accuracy),
    ]


def _policy(standing: Standing) -> dict[str, object]:
    figures = {
        "f1": standing.f1,
        "f1_change": standing.f1_change.value,
        "flops_share": standing.flops_share,
        "tokens_kept": standing.tokens_kept,
        "tokens_window": standing.tokens_window,
        "agreement": standing.agreement,
        "dp_yes": standing.dp_yes,
    }
    rounded = {name: json_number(value) for name, value in figures.items()}
    questions = {prompt: _question(score) for prompt, score in standing.questions.items()}
    change = [json_number(standing.f1_change.low), json_number(standing.f1_change.high)]
    return {**questions, **rounded, "f1_change_ci95": change, "windows": standing.windows}


def _question(score: QuestionScore) -> dict[str, object]:
    estimates = {"f1": score.f1, "precision": score.precision, "recall": score.recall, "f1_change": score.f1_change}
    values: dict[str, object] = {"n": score.n, "type": score.type}
    if score.positive is not None:
        values |= {"positive": score.positive, "f1_always_yes": json_number(score.f1_always_yes or math.nan)}
    for name, estimate in estimates.items():
        values[name] = json_number(estimate.value)
        values[f"{name}_ci95"] = [json_number(estimate.low), json_number(estimate.high)]
    for name in ("auc", "accuracy", "agreement", "dp_yes"):
        values[name] = json_number(getattr(score, name))
    return values


def _marked(heading: str, trained: bool) -> str:
    return heading if trained else f"{UNTRAINED}\n{heading}"


def json_number(value: float) -> float | None:
    """For a JSON line: None if undefined."""
    return None if math.isnan(value) else round(value, 6)


def number_text(value: float) -> str:
    """For a table: `-` if undefined."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def percent_text(value: float, digits: int = 1) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.{digits}f}"


def estimate_text(estimate: Estimate, *, signed: bool = False, digits: int = 2) -> str:
    """A score and its interval. `digits`: of the interval's ends."""
    if math.isnan(estimate.value):
        return "-"
    form, between = ("+", " to ") if signed else ("", "-")
    ends = [f"{end:{form}.{digits}f}" for end in (estimate.low, estimate.high) if not math.isnan(end)]
    return f"{estimate.value:{form}.3f} ({between.join(ends) or '-'})"
