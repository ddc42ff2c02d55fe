"""One long masked forward of transformers' own text model that gives each token exactly the context that it had.

Everything ever computed is laid out in one sequence, in the order of computation: a copy of the prefix for each of its
places, new frames, refreshed tokens as further versions, questions. The mask lets each token see those that were live at the
time, in their versions of that time.

Background tokens are not recomputed, but seen at other positions than their own. They are additional columns of every
layer's attention: the key of the computed token, rotated by transformers' own rotary tables, and its value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from codecflow.vlm.families import Family
from codecflow.vlm.window import HeldFrame
from codecflow.vlm.work import Frame

from .cases import Case

Chooser = Callable[[int], Sequence[int]]  # overlap tokens -> those refreshed


@dataclass
class Moved:
    """Columns of attention: `mask` (queries, computed + moved), `sources` (moved,), `cos`, `sin` (moved, head_dim)."""

    mask: Tensor
    sources: Tensor
    cos: Tensor
    sin: Tensor


_moved: ContextVar[Moved] = ContextVar("moved")


def _attention_with_moved(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **_: Any
) -> Any:
    moved = _moved.get()
    copies = key[:, :, moved.sources]
    half = copies.shape[-1] // 2
    turned = torch.cat([-copies[..., half:], copies[..., :half]], dim=-1)
    key = torch.cat([key, copies * moved.cos + turned * moved.sin], dim=2)
    value = torch.cat([value, value[:, :, moved.sources]], dim=2)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~moved.mask, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("moved_reference", _attention_with_moved)

Seen = int | tuple[int, int]
"""An index in the long sequence; or the token there, seen from that many positions further on."""


@dataclass
class Live:
    """`cell`: its grid cell, None for text. `origin`: the position of its frame's cell 0. `grid`: rows, columns."""

    frame: int
    anchor: bool
    id: int
    feature: Tensor | None  # (levels, hidden)
    position: Tensor  # (axes,)
    first: int  # the position where its frame starts
    span: int
    version: int  # its index in the long sequence
    cell: int | None = None
    origin: int = 0
    grid: tuple[int, int] = (0, 0)


class Oracle:
    """`choose`: given the overlap's tokens, oldest first, the indices of those that are refreshed after an eviction.
    `background`: the newest token of each cell outlives its frame. `scratch`: each step recomputes everything."""

    def __init__(
        self,
        case: Case,
        choose: Callable[[list[Live]], Sequence[int]] | None = None,
        *,
        background: bool = False,
        scratch: bool = False,
    ) -> None:
        self.case, self.family = case, case.family
        self.keeps_background, self.scratch = background, scratch
        self.background: dict[int, Live] = {}
        self.behind: list[Seen] = []
        self.base: int | None = None
        self.choose = choose or (lambda overlap: ())
        self.ids: list[int] = []
        self.features: list[Tensor | None] = []
        self.positions: list[Tensor] = []
        self.sees: list[list[Seen]] = []
        self.prefix_ids = self.family.chat("")[0]
        self.prefix: list[Seen] = []
        self.live: list[Live] = []
        self.next = len(self.prefix_ids)

    def _add(self, token: int, feature: Tensor | None, position: Tensor, sees: Sequence[Seen]) -> int:
        place = len(self.ids)
        self.ids.append(token)
        self.features.append(feature)
        self.positions.append(position)
        self.sees.append([*sees, place])
        return place

    def _at(self, position: int) -> Tensor:
        return torch.full((self.family.axes,), position)

    def _write_prefix(self, first: int) -> None:
        self.prefix = []
        for offset, token in enumerate(self.prefix_ids):
            self.prefix.append(self._add(token, None, self._at(first + offset), self.prefix))

    @torch.inference_mode()
    def step(self, frames: Sequence[Frame], first: int, prompts: Sequence[str]) -> Tensor:
        """(prompts, vocabulary): the expected logits of an engine."""
        leaving = [token for token in self.live if token.frame < first]
        self.live = [token for token in self.live if token.frame >= first]
        behind = self.background
        if self.keeps_background:
            behind = self._outlived(leaving, frames)
        changed = bool(leaving) or behind.keys() != self.background.keys()
        self.background = behind
        self._settle(changed)
        for frame in frames:
            self._take(frame)
        places = [self._ask(prompt) for prompt in prompts]
        return self._forward()[places]

    def _outlived(self, leaving: Sequence[Live], frames: Sequence[Frame]) -> dict[int, Live]:
        """By cell: the newest token that has left its frame, unless a live or new frame has one."""
        coming = [HeldFrame.of(self.family, frame) for frame in frames if frame.keep.any()]
        newest = [token for token in self.live if token.cell is not None]
        leaving = [token for token in leaving if token.cell is not None]
        grids = [*(token.grid for token in (*self.background.values(), *leaving, *newest)), *(f.shape for f in coming)]
        if not grids:
            return {}
        covered = {token.cell for token in newest if token.grid == grids[-1]}
        for frame, held in zip([f for f in frames if f.keep.any()], coming, strict=True):
            covered |= set(frame.keep.nonzero()[0].tolist()) if held.shape == grids[-1] else set()
        found = {}
        for token in (*self.background.values(), *leaving):
            if token.grid == grids[-1] and token.cell is not None and token.cell not in covered:
                found[token.cell] = token
        return dict(sorted(found.items()))

    def _settle(self, changed: bool) -> None:
        """Places prefix and background before the oldest live frame, and recomputes chosen tokens that lost context."""
        span = 0
        if self.background:
            rows, columns = next(iter(self.background.values())).grid
            span = rows * columns if self.family.axes == 1 else max(rows, columns)
        if not self.live or self.scratch:
            self.next = len(self.prefix_ids) + span
        base = (self.live[0].first if self.live and not self.scratch else self.next) - span
        if not self.prefix or base != self.base or self.scratch:
            self._write_prefix(base - len(self.prefix_ids))
        self.base = base
        if self.scratch:
            self.behind = []
            for token in self.background.values():
                position = token.position - token.origin + base
                self.behind.append(self._add(token.id, token.feature, position, [*self.prefix, *self.behind]))
            again, self.live = self.live, []
            for token in again:
                if not self.live or self.live[-1].frame != token.frame:
                    moved = self.next - token.first
                    self.next += token.span
                sees = [*self.prefix, *self.behind, *(other.version for other in self.live)]
                token.position, token.first, token.origin = (
                    token.position + moved,
                    token.first + moved,
                    token.origin + moved,
                )
                token.version = self._add(token.id, token.feature, token.position, sees)
                self.live.append(token)
            return
        self.behind = [(token.version, base - token.origin) for token in self.background.values()]
        if not changed:
            return
        for index in sorted(set(self.choose(self.live))):
            token = self.live[index]
            sees = [*self.prefix, *self.behind, *(other.version for other in self.live[:index])]
            token.version = self._add(token.id, token.feature, token.position, sees)

    def _take(self, frame: Frame) -> None:
        held = HeldFrame.of(self.family, frame)
        if not held.tokens:
            return
        features = iter(self.family.encode(self.family.prepare([frame])))
        cells = iter(frame.keep.nonzero()[0].tolist())
        lead = len(self.family.frame_text(frame.index, frame.time_s)[0])
        for place in range(held.tokens):
            feature = next(features) if held.visual[place] else None
            position = torch.from_numpy(held.positions[:, place]) + self.next
            sees = [*self.prefix, *self.behind, *(other.version for other in self.live)]
            version = self._add(int(held.ids[place]), feature, position, sees)
            token = Live(
                frame.index, frame.anchor, int(held.ids[place]), feature, position, self.next, held.span, version
            )
            if held.visual[place]:
                token.cell = next(cells)
                token.origin, token.grid = self.next + lead, held.shape
            self.live.append(token)
        self.next += held.span

    def _ask(self, prompt: str) -> int:
        sees = [*self.prefix, *self.behind, *(token.version for token in self.live)]
        closing = self.family.closing()
        tokens: list[tuple[int, Tensor | None]] = [] if closing is None else [(0, row[None]) for row in closing]
        tokens += [(token, None) for token in self.family.chat(prompt)[1]]
        for offset, (token, feature) in enumerate(tokens):
            sees.append(self._add(token, feature, self._at(self.next + offset), sees))
        return sees[-1]

    def _forward(self) -> Tensor:
        stock = self.case.stock
        embeds = stock.get_input_embeddings()(torch.tensor(self.ids))
        visual = torch.tensor([feature is not None for feature in self.features])
        levels = max((f.shape[0] for f in self.features if f is not None), default=1)
        features = torch.zeros(len(self.ids), levels, embeds.shape[1])
        for place, feature in enumerate(self.features):
            if feature is not None:
                features[place, : len(feature)] = feature
        embeds[visual] = features[visual, 0]
        moved = {seen: len(self.ids) + number for number, seen in enumerate(self._moved_tokens())}
        mask = torch.zeros(len(self.ids), len(self.ids) + len(moved), dtype=torch.bool)
        for place, sees in enumerate(self.sees):
            mask[place, [moved[seen] if isinstance(seen, tuple) else seen for seen in sees]] = True
        positions = torch.stack(self.positions, dim=1)
        extra = stock_extra(self.family, visual, features)
        if not moved:
            hidden = stock.model.language_model(
                inputs_embeds=embeds[None],
                attention_mask=torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))[None, None],
                position_ids=positions if self.family.axes == 1 else positions[:, None],
                **extra,
            ).last_hidden_state[0]
            return stock.lm_head(hidden)
        model = self.case.moving.model.language_model
        shifts = torch.tensor([[shift for _, shift in moved]]).expand(self.family.axes, -1)
        cos, sin = model.rotary_emb(embeds, shifts if self.family.axes == 1 else shifts[:, None])
        token = _moved.set(Moved(mask, torch.tensor([source for source, _ in moved]), cos[0], sin[0]))
        try:
            hidden = model(
                inputs_embeds=embeds[None],
                position_ids=positions if self.family.axes == 1 else positions[:, None],
                **extra,
            ).last_hidden_state[0]
        finally:
            _moved.reset(token)
        return stock.lm_head(hidden)

    def _moved_tokens(self) -> list[tuple[int, int]]:
        return sorted({seen for sees in self.sees for seen in sees if isinstance(seen, tuple)})


def stock_extra(family: Family, visual: Tensor, features: Tensor) -> dict[str, object]:
    """DeepStack's arguments, if features enter at more than one level."""
    if features.shape[1] == 1:
        return {}
    return {
        "visual_pos_masks": visual[None],
        "deepstack_visual_embeds": [features[visual, level] for level in range(1, features.shape[1])],
    }
