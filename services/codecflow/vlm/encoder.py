"""The blocks of a ViT as one packed loop over transformers' own weights, like decoder.py for the text model, and its input.

The few patches of one stream do not saturate a GPU: a small batch is bound by the host's kernel launches. A block takes
eight or nine launches here and twenty to thirty in transformers' modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from codecflow.vlm.attention import FixedFrames, FrameLayout, within_frames
from codecflow.vlm.dense import Dense, join
from codecflow.vlm.fused import fused_on
from codecflow.vlm.transfer import all_to_device

Turns = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions, (rows, head_dim) each, with identical halves."""


@dataclass(frozen=True, slots=True)
class TowerInput:
    """The kept patches of some frames, for a vision tower.

    `pixels`: (patches, size, size, channels) uint8. `arrays`: what else the family's tower reads, by name; int64 or float32,
    with a row for each row of the ViT, patch or token, and valid where all of a row is 0. `layout`: rows of the ViT of each
    frame. `tokens`: number of features.
    """

    pixels: Tensor
    arrays: Mapping[str, Tensor]
    layout: FrameLayout | FixedFrames
    tokens: int

    @staticmethod
    def of(
        pixels: Tensor, arrays: Mapping[str, npt.NDArray[np.generic]], rows: Sequence[int], tokens: int
    ) -> TowerInput:
        """On the CPU. `rows`: of the ViT, per frame."""
        return TowerInput(
            pixels, {name: torch.from_numpy(own) for name, own in arrays.items()}, FrameLayout(rows), tokens
        )

    def on(self, device: torch.device) -> TowerInput:
        """The same on `device`. Pinned pixels are copied asynchronously."""
        moved = dict(zip(self.arrays, all_to_device(list(self.arrays.values()), device), strict=True))
        return TowerInput(self.pixels.to(device, non_blocking=True), moved, self.layout, self.tokens)


@dataclass(frozen=True, slots=True)
class Block:
    """Weights of one block that normalises before attention and before its MLP. `scales`: factors for the outputs of both,
    before they are added, where a model has them."""

    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    qkv: Dense
    out: Dense
    up: Dense
    down: Dense
    scales: tuple[Tensor | None, Tensor | None] = (None, None)

    @staticmethod
    def of(
        norms: tuple[nn.LayerNorm, nn.LayerNorm],
        attention: Any,
        out: nn.Linear,
        mlp: Any,
        scales: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> Block:
        """Of modules with separate queries, keys and values, which stay usable."""
        return Block(
            norms=norms,
            qkv=join(attention.q_proj, attention.k_proj, attention.v_proj),
            out=Dense(out.weight, out.bias),
            up=Dense(mlp.fc1.weight, mlp.fc1.bias),
            down=Dense(mlp.fc2.weight, mlp.fc2.bias),
            scales=scales,
        )


class Encoder:
    """The blocks of a ViT. `states`: the hidden states to return: 0 is the input of the first block, n the output of the
    n-th. Blocks after the last of them are not computed, but at least one is."""

    def __init__(
        self, blocks: Sequence[Block], heads: int, states: Sequence[int], activation: Callable[[Tensor], Tensor]
    ) -> None:
        self._blocks = blocks[: max(1, *states)]
        weight = blocks[0].out.weight
        self.heads, self.head_dim = heads, weight.shape[1] // heads
        self._states, self._activation = states, activation
        self._fused = fused_on(weight.device, weight.dtype)

    def weights(self) -> Iterator[Tensor]:
        """Those of its matrix products."""
        for block in self._blocks:
            yield from (block.qkv.weight, block.out.weight, block.up.weight, block.down.weight)

    def __call__(
        self, hidden: Tensor, layout: FrameLayout | FixedFrames, turns: Turns | None = None
    ) -> tuple[Tensor, ...]:
        """`hidden`: (rows, hidden); returns the wanted states, each of the same shape and not normalised. `turns`: rotary
        positions, where a model has them."""
        found = {0: hidden}
        first = self._blocks[0].norms[0]
        x = layer_norm(hidden, first.normalized_shape, first.weight, first.bias, first.eps)
        for number, block in enumerate(self._blocks, start=1):
            seen = self._attention(block, x, layout, turns)
            hidden, x = self._enter(hidden, block.out(seen), block.scales[0], block.norms[1])
            delta = block.down(self._activation(block.up(x)))
            if number < len(self._blocks):
                hidden, x = self._enter(hidden, delta, block.scales[1], self._blocks[number].norms[0])
            else:
                scale = block.scales[1]
                hidden = hidden + (delta if scale is None else scale * delta)
            if number in self._states:
                found[number] = hidden
        return tuple(found[state] for state in self._states)

    def _attention(self, block: Block, x: Tensor, layout: FrameLayout | FixedFrames, turns: Turns | None) -> Tensor:
        packed = block.qkv(x).view(len(x), 3 * self.heads, self.head_dim)
        if turns is not None:
            self._fused.rotate(packed[:, : 2 * self.heads], self.heads, *turns, None, 0.0)
        query, key, value = packed.view(len(x), 3, self.heads, self.head_dim).unbind(1)
        return within_frames(query, key, value, layout, self.head_dim**-0.5).flatten(1)

    def _enter(self, hidden: Tensor, delta: Tensor, scale: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        return self._fused.add_scaled_norm(hidden, delta, scale, norm.weight, norm.bias, norm.eps)
