"""FLOPs from shapes alone. A multiply-add counts as two; norms, activations and rotations are not counted, as is usual.

Attention is counted by pairs of query and key that see each other, so a causal square counts half. Tested against
torch.utils.flop_counter, which counts whole rectangles.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any


def linear(tokens: int, *sizes: int) -> int:
    """A chain of dense layers: `sizes` are the widths of its input, hidden layers and output."""
    return 2 * tokens * sum(a * b for a, b in pairwise(sizes))


def attention(pairs: int, heads: int, head_dim: int) -> int:
    """Scores and weighted sums of `pairs` (query, key) pairs in every head."""
    return 4 * pairs * heads * head_dim


def vit(patches: int, others: int, hidden: int, layers: int, intermediate: int, patch_values: int) -> int:
    """A plain ViT over one frame: patch embedding (`patch_values` values per patch) and `layers` blocks over all its tokens.

    `others`: tokens that are not patches (a class token).
    """
    tokens = patches + others
    block = linear(tokens, hidden, 4 * hidden) + linear(tokens, hidden, intermediate, hidden)
    return linear(patches, patch_values, hidden) + layers * (block + attention(tokens * tokens, 1, hidden))


def causal_pairs(queries: int, keys: int) -> int:
    """Number of pairs when `queries` tokens are the last of `keys`, each seeing those up to itself."""
    return queries * (keys - queries) + queries * (queries + 1) // 2


@dataclass(frozen=True, slots=True)
class Work:
    """What a text model computed: `tokens`, and `pairs` of query and key that see each other.

    `last_tokens`, `last_pairs`: the part of the last layer. For tokens whose hidden states are not needed it computes only
    queries, keys and values.
    """

    tokens: int = 0
    pairs: int = 0
    last_tokens: int = 0
    last_pairs: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.last_tokens + other.last_tokens,
            self.last_pairs + other.last_pairs,
        )


NOTHING = Work()


@dataclass(frozen=True, slots=True)
class TextCost:
    """FLOPs of a gated-MLP decoder with grouped-query attention (Llama, Qwen2, Qwen3).

    Per layer: `projecting` a token to query, key and value, the `rest` of its dense layers, and one (query, key) `pair`.
    `head`: the vocabulary's scores for one token.
    """

    projecting: int
    rest: int
    pair: int
    head: int
    layers: int

    @staticmethod
    def of(config: Any) -> TextCost:
        """From a text model's configuration."""
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        hidden = config.hidden_size
        return TextCost(
            projecting=linear(1, hidden, (heads + 2 * kv_heads) * head_dim),
            rest=linear(1, heads * head_dim, hidden) + 3 * linear(1, hidden, config.intermediate_size),
            pair=attention(1, heads, head_dim),
            head=linear(1, hidden, config.vocab_size),
            layers=config.num_hidden_layers,
        )

    def __call__(self, work: Work, scored: int) -> int:
        """`work` through all layers, `scored` tokens through the head."""
        before = self.layers - 1
        return (
            self.layers * work.tokens * self.projecting
            + (before * work.tokens + work.last_tokens) * self.rest
            + (before * work.pairs + work.last_pairs) * self.pair
            + scored * self.head
        )
