"""How scores are written: in tables for people, in JSON lines for programs."""

from __future__ import annotations

import math

from .bootstrap import Estimate


def json_number(value: float) -> float | None:
    """As in a JSON line: None where it has no meaning."""
    return None if math.isnan(value) else round(value, 6)


def number_text(value: float) -> str:
    """As in a table, where `-` is what has no meaning."""
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
