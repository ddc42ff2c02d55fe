"""One long masked forward of transformers' own text model that gives each token exactly the context that it had.

Everything ever computed is laid out in one sequence, in the order of computing: the prefix anew wherever it stood, new
frames, refreshed tokens as further versions, questions. The mask lets each see what was live, in its version of then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codecflow.vlm.families import Family
from codecflow.vlm.window import HeldFrame
from codecflow.vlm.work import Frame

from .cases import Case

Chooser = Callable[[int], Sequence[int]]  # overlap tokens -> those refreshed


@dataclass
class Live:
    frame: int
    anchor: bool
    id: int
    feature: Tensor | None  # (levels, hidden)
    position: Tensor  # (axes,)
    first: int  # the position where its frame begins
    span: int
    version: int  # its place in the long sequence


class Oracle:
    """`choose`: given the overlap's tokens, oldest first, the indices of those that are refreshed after an eviction."""

    def __init__(self, case: Case, choose: Callable[[list[Live]], Sequence[int]] | None = None) -> None:
        self.case, self.family = case, case.family
        self.choose = choose or (lambda overlap: ())
        self.ids: list[int] = []
        self.features: list[Tensor | None] = []
        self.positions: list[Tensor] = []
        self.sees: list[list[int]] = []
        self.prefix_ids = self.family.chat("")[0]
        self.prefix: list[int] = []
        self.live: list[Live] = []
        self.next = len(self.prefix_ids)

    def _add(self, token: int, feature: Tensor | None, position: Tensor, sees: Sequence[int]) -> int:
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
        """(prompts, vocabulary): the logits that an engine should give."""
        before = len(self.live)
        self.live = [token for token in self.live if token.frame >= first]
        if not self.prefix:
            self._write_prefix(0)
        elif len(self.live) < before:
            if not self.live:
                self.next = len(self.prefix_ids)
            self._write_prefix((self.live[0].first if self.live else self.next) - len(self.prefix_ids))
            chosen = set(self.choose(self.live))
            for index in sorted(chosen):
                token = self.live[index]
                sees = [*self.prefix, *(other.version for other in self.live[:index])]
                token.version = self._add(token.id, token.feature, token.position, sees)
        for frame in frames:
            self._take(frame)
        places = [self._ask(prompt) for prompt in prompts]
        return self._forward()[places]

    def _take(self, frame: Frame) -> None:
        held = HeldFrame.of(self.family, frame)
        if not held.tokens:
            return
        features = iter(self.family.encode(self.family.prepare([frame])))
        for place in range(held.tokens):
            feature = next(features) if held.visual[place] else None
            position = held.positions[:, place] + self.next
            sees = [*self.prefix, *(other.version for other in self.live)]
            version = self._add(int(held.ids[place]), feature, position, sees)
            self.live.append(
                Live(frame.index, frame.anchor, int(held.ids[place]), feature, position, self.next, held.span, version)
            )
        self.next += held.span

    def _ask(self, prompt: str) -> int:
        sees = [*self.prefix, *(token.version for token in self.live)]
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
        mask = torch.full((len(self.ids), len(self.ids)), float("-inf"))
        for place, seen in enumerate(self.sees):
            mask[place, seen] = 0
        positions = torch.stack(self.positions, dim=1)
        extra = stock_extra(self.family, visual, features)
        hidden = stock.model.language_model(
            inputs_embeds=embeds[None],
            attention_mask=mask[None, None],
            position_ids=positions if self.family.axes == 1 else positions[:, None],
            **extra,
        ).last_hidden_state[0]
        return stock.lm_head(hidden)


def stock_extra(family: Family, visual: Tensor, features: Tensor) -> dict[str, object]:
    """DeepStack's arguments, where features enter at more than one level."""
    if features.shape[1] == 1:
        return {}
    return {
        "visual_pos_masks": visual[None],
        "deepstack_visual_embeds": [features[visual, level] for level in range(1, features.shape[1])],
    }
