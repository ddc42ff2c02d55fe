"""The cost of a step for one stream, as reported in its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from codecflow.messages import Flops, Tokens
from codecflow.vlm.answers import Asked
from codecflow.vlm.families.base import Family
from codecflow.vlm.flops import NOTHING, TextCost, Work, causal_pairs
from codecflow.vlm.window import HeldFrame, StreamWindow


@dataclass(slots=True)
class Spent:
    """Accumulated while a stream's work is done.

    `encoded`: (patches, kept tokens) of each frame that went through the ViT. `trunk`: new and refreshed tokens through the
    language model. `probe`: tokens through its first layer to find those that deviate. `refreshed`: visual tokens.
    """

    encoded: list[tuple[int, int]] = field(default_factory=list)
    trunk: Work = NOTHING
    probe: Work = NOTHING
    refreshed: int = 0

    @property
    def patches(self) -> int:
        return sum(patches for patches, _ in self.encoded)


def tokens_used(window: StreamWindow, new: Sequence[HeldFrame], spent: Spent, restarted: bool) -> Tokens:
    """Visual tokens of one step. `restarted`: the window was computed from scratch."""
    held = window.visual_tokens
    kept = sum(frame.kept for frame in new)
    refreshed = held if restarted else min(held, kept + spent.refreshed)
    return Tokens(
        kept=kept,
        total=sum(f.total for f in new),
        refreshed=refreshed,
        reused=held - refreshed,
        background=len(window.background),
    )


def flops_used(family: Family, window: StreamWindow, spent: Spent, asked: Sequence[Asked]) -> Flops:
    """FLOPs of one step, and those that keep `all` with refresh `all` would take for the same window and questions."""
    cost = family.text_cost
    asking = sum((a.work + a.later for a in asked), NOTHING)
    scored = sum(a.scored for a in asked)

    whole = len(window.prefix) + sum(frame.total + frame.text for frame in window.frames)
    full_vit = sum(family.vision_cost(family.patches_of(f.total), f.total) for f in window.frames)
    # The questions see the whole window instead of the held tokens. In the last layer, window tokens cost the same as usual.
    more = whole - window.tokens
    pairs = causal_pairs(whole, whole)
    everything = Work(whole, pairs) if family.narrows else Work(whole, pairs, whole, pairs)
    asked_of_all = replace(
        asking,
        pairs=asking.pairs + asking.tokens * more,
        last_pairs=asking.last_pairs + asking.last_tokens * more,
    )
    return Flops(
        vit=sum(family.vision_cost(patches, tokens) for patches, tokens in spent.encoded),
        llm=cost(spent.trunk + asking, scored) + _probing(family, cost, spent.probe),
        full=full_vit + cost(everything + asked_of_all, scored),
    )


def _probing(family: Family, cost: TextCost, probe: Work) -> int:
    """One layer, and the next layer's query, key and value projections."""
    return probe.tokens * (2 * cost.projecting + cost.rest) + probe.pairs * cost.pair
