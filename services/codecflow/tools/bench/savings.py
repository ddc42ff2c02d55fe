"""What a window costs in floating-point operations, policy by policy, from token counts and a model's shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from codecflow.vlm.flops import TextCost, causal_pairs, linear, vit

from .windows_kv import WindowRecord

MODEL = "InternVL3-8B"
"""Whose shapes are counted: https://huggingface.co/OpenGVLab/InternVL3-8B, config.json."""

_TEXT = SimpleNamespace(
    hidden_size=3584,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    intermediate_size=18944,
    vocab_size=151674,
)
_VIT_HIDDEN, _VIT_LAYERS, _VIT_INTERMEDIATE, _PATCH_VALUES = 1024, 24, 4096, 14 * 14 * 3
_PATCHES_A_TOKEN = 4

QUESTION_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Savings:
    """Means over full windows. `encoded`: tokens through the ViT, `computed`: through the language model, `held`: in the KV
    cache. `vit`, `llm`: FLOPs, a multiply-add is two."""

    encoded: float
    computed: float
    held: float
    vit: float
    llm: float

    @property
    def total(self) -> float:
        return self.vit + self.llm


def savings(windows: Sequence[WindowRecord], from_scratch: bool = False) -> Savings:
    """The mean cost of `windows`, with one question of QUESTION_TOKENS tokens each.

    Text between frames and the few tokens of an answer are left out. `from_scratch`: features are computed again too.
    """
    cost = TextCost.of(_TEXT)
    count = len(windows)
    encoded = computed = held = vision = language = 0
    for window in windows:
        before = pairs = tokens = 0
        for new, refreshed, reused in zip(window.new, window.refreshed, window.reused, strict=True):
            through_vit = new + refreshed if from_scratch else new
            encoded += through_vit
            vision += _vit_flops(through_vit)
            # A token sees all that the window holds before it, and the tokens of its own frame up to itself.
            pairs += causal_pairs(new + refreshed, before + new + refreshed)
            tokens += new + refreshed
            before += new + refreshed + reused
        pairs += causal_pairs(QUESTION_TOKENS, before + QUESTION_TOKENS)
        language += cost(tokens + QUESTION_TOKENS, pairs, 1)
        computed += tokens
        held += before
    return Savings(encoded / count, computed / count, held / count, vision / count, language / count)


def _vit_flops(tokens: int) -> int:
    """One frame's kept tokens: the ViT with its class token, then the projector. Nothing for nothing."""
    if not tokens:
        return 0
    patches = tokens * _PATCHES_A_TOKEN
    encoder = vit(patches, 1, _VIT_HIDDEN, _VIT_LAYERS, _VIT_INTERMEDIATE, _PATCH_VALUES)
    return encoder + linear(tokens, _VIT_HIDDEN * _PATCHES_A_TOKEN, _TEXT.hidden_size, _TEXT.hidden_size)
