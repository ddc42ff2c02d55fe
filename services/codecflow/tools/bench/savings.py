"""What a refresh policy recomputes and what it reuses in the windows of a clip, and the FLOPs that this saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

from codecflow.errors import ConfigError
from codecflow.vlm.flops import TextCost, Work, causal_pairs, linear, vit
from codecflow.worker.window_plan import WindowPlan

REFRESHES = ("none", "anchors", "all")
"""Refresh policies whose choice depends on the frames alone; `budget` depends on the model's output."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """The decision for one sampled frame, in tokens. `motion_kept`: what the policy `motion` would keep."""

    slot: int
    time_s: float
    total: int
    kept: int
    compared: int
    certified: int
    anchor: bool
    motion_kept: int


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """One window's KV in tokens, by what happens to them when it is answered. Lists run over its frames and those evicted.

    `new`: computed for the first time. `refreshed`: recomputed in context. `reused`: unchanged. `evicted`: left the window.
    `full`: what keep `all` with refresh `all` computes. `background`: tokens that have outlived their frames.
    """

    window: int
    start_s: float
    end_s: float
    times_s: list[float]
    new: list[int]
    refreshed: list[int]
    reused: list[int]
    evicted: list[int]
    full: int
    background: int = 0

    @property
    def computed(self) -> int:
        return sum(self.new) + sum(self.refreshed)


def windows_of(
    records: Sequence[FrameRecord], plan: WindowPlan, refresh: str, background: Sequence[int] = ()
) -> list[WindowRecord]:
    """The windows that the frames complete, oldest first. `background`: what each holds in addition to its frames' tokens.

    Refresh `anchors` starts once something has left the window: until then all tokens have their original context.
    """
    windows: list[WindowRecord] = []
    last = records[-1].slot + 1
    window = 0
    while plan.end(window) <= last:
        first, newest, end = plan.first(window), plan.newest(window), plan.end(window)
        before = plan.first(window - 1) if window else 0
        held = [record for record in records if before <= record.slot < end and plan.used(record.slot)]
        slid = first > before
        rows: dict[str, list[int]] = {name: [] for name in ("new", "refreshed", "reused", "evicted")}
        for record in held:
            if record.slot < first:
                fate = "evicted"
            elif record.slot >= newest:
                fate = "new"
            else:
                again = refresh == "all" or (refresh == "anchors" and record.anchor and slid)
                fate = "refreshed" if again else "reused"
            for name, tokens in rows.items():
                tokens.append(record.kept if name == fate else 0)
        windows.append(
            WindowRecord(
                window=window,
                start_s=float(plan.time(first)),
                end_s=float(plan.time(end)),
                times_s=[float(Fraction(record.slot) / plan.fps) for record in held],
                full=sum(record.total for record in held if record.slot >= first),
                background=background[window] if window < len(background) else 0,
                **rows,
            )
        )
        window += 1
    if not windows:
        raise ConfigError(
            f"the clip ends before its first window is answered, {float(plan.time(plan.end(0))):g} s: use a shorter --stride"
        )
    return windows


MODEL = "InternVL3-8B"
"""The model whose shapes are used: https://huggingface.co/OpenGVLab/InternVL3-8B, config.json."""

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
    cache. `vit`, `llm`: FLOPs, a multiply-add counts as two."""

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

    Text between frames and the few tokens of an answer are not counted. `from_scratch`: features are recomputed too.
    """
    cost = TextCost.of(_TEXT)
    count = len(windows)
    encoded = computed = held = vision = language = 0
    for window in windows:
        before, pairs, tokens = window.background, 0, 0
        for new, refreshed, reused in zip(window.new, window.refreshed, window.reused, strict=True):
            through_vit = new + refreshed if from_scratch else new
            encoded += through_vit
            vision += _vit_flops(through_vit)
            # A token sees everything before its frame in the window, and the tokens of its own frame up to itself.
            pairs += causal_pairs(new + refreshed, before + new + refreshed)
            tokens += new + refreshed
            before += new + refreshed + reused
        pairs += causal_pairs(QUESTION_TOKENS, before + QUESTION_TOKENS)
        work = Work(tokens + QUESTION_TOKENS, pairs, 1, before + QUESTION_TOKENS)
        language += cost(work, 1)
        computed += tokens
        held += before
    return Savings(encoded / count, computed / count, held / count, vision / count, language / count)


def _vit_flops(tokens: int) -> int:
    """One frame's kept tokens: the ViT with its class token, then the projector. 0 for no tokens."""
    if not tokens:
        return 0
    patches = tokens * _PATCHES_A_TOKEN
    encoder = vit(patches, 1, _VIT_HIDDEN, _VIT_LAYERS, _VIT_INTERMEDIATE, _PATCH_VALUES)
    return encoder + linear(tokens, _VIT_HIDDEN * _PATCHES_A_TOKEN, _TEXT.hidden_size, _TEXT.hidden_size)
