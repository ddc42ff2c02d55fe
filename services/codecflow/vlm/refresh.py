"""Refresh policies: which tokens of the overlap are recomputed in context after earlier frames have left.

A token's keys and values carry the context that it had when it was computed. While nothing leaves the window that context
does not change, so there is nothing to refresh.

`anchors` and `budget` choose among the tokens of frames. The background comes first in the sequence: recomputed, its tokens
would see the prefix and one another, less than they saw in their frame. Only `all` recomputes it, like everything else, from
features that the background holds, since its pictures are gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from codecflow.errors import ConfigError
from codecflow.vlm.families.base import Family
from codecflow.vlm.flops import Work
from codecflow.vlm.kv_pool import KVPool, ProbeCache, ProbedError
from codecflow.vlm.runner import Pack, Run
from codecflow.vlm.window import HeldFrame, StreamWindow

RefreshName = Literal["none", "anchors", "budget", "all"]
BudgetBy = Literal["deviation", "position", "random", "shifted"]


@dataclass(frozen=True, slots=True)
class Refresh:
    """`none`: nothing. `anchors`: every token of anchor frames (CodecFlow, arXiv 2604.06036). `budget`: a `share` of the
    overlap's tokens, those whose second layer's keys and values deviate most from the cached ones (`deviation`, as in
    CacheBlend, arXiv 2405.16444), the oldest ones, which lost most of their context (`position`), or random ones (`random`:
    a control); a share of 1 is the whole overlap, from held features. `all`: the whole window from scratch, pictures
    included.

    `matched`: the budget is the number of anchor tokens in the overlap, whatever `share` says, to separate the effect of
    anchors from that of equally many other tokens. `shifted` is for use with it: anchors' indices, each shifted by half of
    an anchor period's tokens (modulo the overlap).
    """

    name: RefreshName = "none"
    share: float = 0.15
    by: BudgetBy = "deviation"
    matched: bool = False

    def __post_init__(self) -> None:
        if self.name not in get_args(RefreshName):
            raise ConfigError(f"refresh policy {self.name!r}: use one of {', '.join(get_args(RefreshName))}")
        if self.by not in get_args(BudgetBy):
            raise ConfigError(f"refresh budget by {self.by!r}: use one of {', '.join(get_args(BudgetBy))}")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"refresh share {self.share}: use a number from 0 to 1")
        if self.by == "shifted" and not self.matched:
            raise ConfigError("refresh budget by 'shifted': it takes a budget matched to anchors")

    @staticmethod
    def parse(text: str) -> Refresh:
        """A policy by its name, with its default settings, or budget=SHARE. Raises ConfigError on anything else."""
        name, equals, share = text.partition("=")
        if not equals or name != "budget":
            return Refresh(text)  # type: ignore[arg-type]  # checked by Refresh itself
        try:
            return Refresh("budget", float(share))
        except ValueError:
            raise ConfigError(f"refresh {text!r}: budget=SHARE takes a number from 0 to 1") from None

    def holds_features(self, frame: HeldFrame) -> bool:
        """Whether this frame's features may be needed again."""
        return self.name == "budget" or (self.name == "anchors" and frame.anchor)

    @property
    def probes(self) -> bool:
        return self.name == "budget" and self.by == "deviation" and (self.matched or 0 < self.share < 1)

    def runs(self, window: StreamWindow, overlap: Sequence[HeldFrame], deviation: Tensor | None = None) -> list[Run]:
        """The tokens of `overlap` to recompute. `deviation`: (overlap tokens,), if this policy `probes`."""
        if self.name == "anchors":
            return [frame.run() for frame in overlap if frame.anchor]
        if self.name != "budget" or not (self.matched or self.share):
            return []
        if self.share == 1 and not self.matched:
            return [frame.run() for frame in overlap]
        anchors = torch.cat([torch.full((frame.tokens,), frame.anchor) for frame in overlap])
        tokens = len(anchors)
        budget = int(anchors.sum()) if self.matched else round(self.share * tokens)
        if self.by == "shifted":
            count = sum(frame.anchor for frame in overlap)
            chosen = anchors.roll(tokens // (2 * count)) if count else anchors
        else:
            chosen = torch.zeros(tokens, dtype=torch.bool)
            chosen[self.order(window.stream, overlap[0].index, tokens, deviation)[:budget]] = True
        runs: list[Run] = []
        at = 0
        for frame in overlap:
            runs += _pieces(frame.run(), chosen[at : at + frame.tokens])
            at += frame.tokens
        return runs

    def order(self, stream: str, first: int, tokens: int, deviation: Tensor | None = None) -> Tensor:
        """The overlap's tokens in order of priority: (tokens,) int64. `first`: its oldest frame, which seeds `random`."""
        if self.by == "position":
            return torch.arange(tokens)
        if self.by == "random":
            seed = hashlib.blake2b(f"{stream}/{first}".encode(), digest_size=6).digest()
            return torch.randperm(tokens, generator=torch.Generator().manual_seed(int.from_bytes(seed)))
        assert deviation is not None
        return deviation.argsort(descending=True, stable=True)


def _pieces(run: Run, picked: Tensor) -> list[Run]:
    """The contiguous pieces of `run` where `picked` (tokens,) holds."""
    edges = torch.nn.functional.pad(picked.int(), (1, 1)).diff()
    starts, stops = (edges.eq(step).nonzero().flatten().tolist() for step in (1, -1))
    return [run.part(a, b) for a, b in zip(starts, stops, strict=True)]


def deviations(
    family: Family, pool: KVPool, windows: Sequence[tuple[StreamWindow, Sequence[HeldFrame]]]
) -> list[tuple[Tensor, Work]]:
    """The deviation of cached keys and values from those in the current context (CacheBlend, arXiv 2405.16444).

    The first layer's keys depend on the token alone. The second layer's are the first that depend on context, and a token
    that deviates there tends to deviate in the layers above, so probing one layer over the overlap is enough to choose.

    For each window and its overlap, frames in order: squared distance of keys and values, (tokens,) on the CPU, and cost.
    The cache of a one-layer model does not depend on context: no deviation.
    """
    pack = Pack(family, pool)
    work = [pack.trunk(window, [frame.run() for frame in overlap]) for window, overlap in windows]
    slots = [window.where(overlap[0].slot, overlap[-1].slot + overlap[-1].tokens) for window, overlap in windows]
    probe = ProbeCache(pool, torch.cat(slots))
    with suppress(ProbedError):
        pack.run(probe)
    if probe.keys is None or probe.values is None:
        return [(torch.zeros(one.tokens), one) for one in work]
    where = probe.slots.to(family.device)
    distance = torch.zeros(len(where), device=family.device)
    for now, cached in zip((probe.keys, probe.values), pool.read(where, 1), strict=True):
        distance += (now.float() - cached.float()).square().sum((1, 2))
    return list(zip(torch.split(distance.cpu(), [one.tokens for one in work]), work, strict=True))
