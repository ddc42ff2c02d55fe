"""The cases of `codecflow bench window`, and their results. Does not import torch: the command line's help uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codecflow.vlm.refresh import Refresh

POLICIES = "all/all,all/none,motion/anchors,motion/none,replenish/anchors,replenish/budget,replenish/none"
"""KEEP/REFRESH pairs that are timed by default."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Frames of a window and of a stride, seconds of a stride, slides to time, and questions per window. `text`: maximum
    tokens of each answer, 0 for yes-no answers. `max_s`: no further slide starts after this time."""

    window: int
    stride: int
    stride_s: float
    slides: int
    questions: int
    text: int = 0
    max_s: float = inf


@dataclass(frozen=True, slots=True)
class Case:
    """What is timed: a keep policy, a refresh policy as it was specified, and how many streams are served together."""

    keep: str
    refresh_name: str
    refresh: Refresh
    streams: int

    @property
    def name(self) -> str:
        return f"{self.keep} + {self.refresh_name}"


@dataclass(slots=True)
class Cost:
    """Cost of a window of one case on one clip: means over the timed slides.

    Times are the share of one window and stream; bytes are per stream. `steps_ms`: of each slide, all streams together.
    `idle_share`: share of a slide's time in which a GPU runs no kernel.

    `streams_served`: how many streams one device answers in real time, a window every `stride_s`. `tokens_kept`: share of
    the new frames' tokens; `tokens_computed`: share of the window's tokens computed for it. `flops`: executed;
    `flops_share`: relative to `all` + `all`. `max_logit_difference`, `agreement`: compared with `all` + `all` on the same
    windows: largest |Δlogit| of the first answer token, share of equal answers. `failed`: why there are no figures.
    """

    clip: str
    keep: str
    refresh: str
    streams: int
    ms: float = 0.0
    stages_ms: dict[str, float] = field(default_factory=dict)
    steps_ms: list[float] = field(default_factory=list)
    idle_share: float | None = None
    speedup: float | None = None
    streams_served: float = 0.0
    window_tokens: float = 0.0
    tokens_kept: float = 0.0
    tokens_computed: float = 0.0
    flops: float = 0.0
    flops_share: float = 0.0
    tflops_per_s: float = 0.0
    kv_bytes: float = 0.0
    held_bytes: float = 0.0
    pool_bytes: int = 0
    peak_bytes: int | None = None
    max_logit_difference: float | None = None
    agreement: float | None = None
    failed: str | None = None


def as_figures(costs: Sequence[Cost]) -> list[dict[str, object]]:
    """For the JSON line: the known figures, rounded to meaningful digits."""

    def rounded(value: object) -> object:
        if isinstance(value, list):
            return [rounded(one) for one in value]
        if isinstance(value, float):
            return float(f"{value:.5g}")
        return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else value

    return [{k: rounded(v) for k, v in asdict(cost).items() if v is not None} for cost in costs]
