"""Others at equal FLOPs: what each kind of contender scores for what one of them costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .bootstrap import Estimate
from .contenders import family_of
from .scoring import Standing, mean_change

_SAME = 1e-3
"""Relative difference of FLOPs up to which a setting counts as costing just as much."""


@dataclass(frozen=True, slots=True)
class Matched:
    """A family of contenders that differ in one number, at the FLOPs of another contender.

    `settings`: the one that costs as much, or the two between which `f1`, mean over questions, lies on a straight line.
    `change`: of f1 against the other contender's, drawn in pairs. `beside`: 1, and -1, where every setting that ran costs
    more, and less: then the nearest one is told as it is, with its own `flops_share`.
    """

    family: str
    settings: tuple[str, ...]
    flops_share: float
    f1: float
    change: Estimate
    beside: int = 0


def matched(standings: Sequence[Standing], target: Standing) -> list[Matched]:
    """Every family whose keep policy is not the target's, in the order in which they ran. `all` has nothing to set."""
    own = target.name.partition("/")[0].partition("-")[0]
    families: dict[str, list[Standing]] = {}
    for one in standings:
        keep = one.name.partition("/")[0].partition("-")[0]
        if keep not in (own, "all"):
            families.setdefault(family_of(one.name), []).append(one)
    return [_at(name, sorted(ran, key=lambda one: one.flops_share), target) for name, ran in families.items()]


def _at(family: str, ran: Sequence[Standing], target: Standing) -> Matched:
    wanted = target.flops_share
    nearest = min(ran, key=lambda one: abs(one.flops_share - wanted))
    below = [one for one in ran if one.flops_share < wanted]
    above = [one for one in ran if one.flops_share >= wanted]
    if abs(nearest.flops_share - wanted) <= _SAME * wanted or not (below and above):
        beside = 0 if abs(nearest.flops_share - wanted) <= _SAME * wanted else 1 if above else -1
        change = mean_change(nearest.f1_draws, target.f1_draws)
        return Matched(family, (nearest.name,), nearest.flops_share, nearest.f1, change, beside)
    low, high = below[-1], above[0]
    share = (wanted - low.flops_share) / (high.flops_share - low.flops_share)
    f1 = (1 - share) * low.f1 + share * high.f1
    drawn = (1 - share) * low.f1_draws + share * high.f1_draws
    return Matched(family, (low.name, high.name), wanted, f1, mean_change(drawn, target.f1_draws))
