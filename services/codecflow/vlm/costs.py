"""The cost of a step for one stream, as reported in its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from codecflow.messages import Flops, Tokens
from codecflow.vlm.answers import Request
from codecflow.vlm.families.base import Family
from codecflow.vlm.flops import NOTHING, TextCost, Work, causal_pairs
from codecflow.vlm.window import HeldFrame, StreamWindow


@dataclass(slots=True)
class Usage:
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


def tokens_used(window: StreamWindow, new: Sequence[HeldFrame], usage: Usage, restarted: bool) -> Tokens:
    """Visual tokens of one step. `restarted`: the window was computed from scratch."""
    held = window.visual_tokens
    kept = sum(frame.kept for frame in new)
    refreshed = held if restarted else min(held, kept + usage.refreshed)
    return Tokens(
        kept=kept,
        total=sum(f.total for f in new),
        refreshed=refreshed,
        reused=held - refreshed,
        background=len(window.background),
    )


def flops_used(family: Family, window: StreamWindow, usage: Usage, requests: Sequence[Request]) -> Flops:
    """FLOPs of one step, and those that keep `all` with refresh `all` would take for the same window and questions."""
    cost = family.text_cost
    question_work = sum((a.work + a.later for a in requests), NOTHING)
    scored = sum(a.scored for a in requests)

    whole = len(window.prefix) + sum(frame.total + frame.text for frame in window.frames)
    full_vit = sum(family.vision_cost(family.patches_of(f.total), f.total) for f in window.frames)
    # The questions see the whole window instead of the held tokens. In the last layer, window tokens cost the same as usual.
    more = whole - window.tokens
    pairs = causal_pairs(whole, whole)
    everything = Work(whole, pairs) if family.narrows else Work(whole, pairs, whole, pairs)
    full_question_work = replace(
        question_work,
        pairs=question_work.pairs + question_work.tokens * more,
        last_pairs=question_work.last_pairs + question_work.last_tokens * more,
    )
    return Flops(
        vit=sum(family.vision_cost(patches, tokens) for patches, tokens in usage.encoded),
        llm=cost(usage.trunk + question_work, scored) + _probing(family, cost, usage.probe),
        full=full_vit + cost(everything + full_question_work, scored),
    )


def _probing(family: Family, cost: TextCost, probe: Work) -> int:
    """One layer, and the next layer's query, key and value projections."""
    return probe.tokens * (2 * cost.projecting + cost.rest) + probe.pairs * cost.pair
