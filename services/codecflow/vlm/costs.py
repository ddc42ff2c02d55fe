"""What a step cost a stream, in the terms of its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from codecflow.messages import Flops, Tokens
from codecflow.vlm.answers import Asked
from codecflow.vlm.families.base import Family
from codecflow.vlm.flops import TextCost, causal_pairs, linear
from codecflow.vlm.runner import NOTHING, Work
from codecflow.vlm.window import HeldFrame, StreamWindow


@dataclass(slots=True)
class Spent:
    """Counted while a stream's work is done.

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
    """FLOPs of one step, and what keep `all` with refresh `all` would have taken for the same window and questions."""
    cost = family.text_cost
    asking = sum((a.work + a.later for a in asked), NOTHING)
    scored = sum(a.scored for a in asked)
    own = asking.pairs - asking.tokens * window.tokens  # pairs among the questions' own tokens

    whole = len(window.prefix) + sum(frame.total + frame.text for frame in window.frames)
    full_vit = sum(family.vision_cost(family.patches_of(f.total), f.total) for f in window.frames)
    full_pairs = causal_pairs(whole, whole) + asking.tokens * whole + own
    return Flops(
        vit=sum(family.vision_cost(patches, tokens) for patches, tokens in spent.encoded),
        llm=cost(spent.trunk.tokens + asking.tokens, spent.trunk.pairs + asking.pairs, scored)
        + _probing(family, cost, spent.probe),
        full=full_vit + cost(whole + asking.tokens, full_pairs, scored),
    )


def _probing(family: Family, cost: TextCost, probe: Work) -> int:
    """One layer, and the next one's projections to queries, keys and values."""
    config, kv = family.text_config, family.kv
    projected = linear(probe.tokens, config.hidden_size, (config.num_attention_heads + 2 * kv.kv_heads) * kv.head_dim)
    return (probe.tokens * cost.per_token + probe.pairs * cost.per_pair) // cost.layers + projected
