"""The blocks of a ViT as one packed loop over transformers' own weights, like decoder.py for the text model, and its input.

The few patches of one stream do not saturate a GPU: a small batch is bound by the host's kernel launches. A block takes
eight launches here and twenty in transformers' modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from codecflow.vlm.attention import FixedFrames, FrameLayout, within_frames
from codecflow.vlm.dense import Dense, join
from codecflow.vlm.fused import fused_on
from codecflow.vlm.transfer import all_to_device

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TowerInput:
    """The kept patches of some frames as rows of a ViT: each frame's class token, then its patches.

    `pixels`: (patches, size, size, channels) uint8. All indices are int64. `source`: (rows,) the class token (0) or the
    patch (from 1) that a row shows. `place`: (rows,) its row in the table of positions. `back`: (patches,) the row of each
    patch. `layout`: rows of each frame.
    """

    pixels: Tensor
    source: Tensor
    place: Tensor
    back: Tensor
    layout: FrameLayout | FixedFrames

    @staticmethod
    def of(pixels: Tensor, counts: Sequence[int], places: Ints) -> TowerInput:
        """On the CPU. `counts`: patches of each frame; `places`: (patches,) row of each patch in the table of positions."""
        patches = np.arange(len(pixels))
        back = patches + np.repeat(np.arange(1, 1 + len(counts)), counts)
        source, place = np.zeros((2, len(patches) + len(counts)), np.int64)
        source[back], place[back] = patches + 1, places
        rows, table, own = (torch.from_numpy(values) for values in (source, place, back))
        return TowerInput(pixels, rows, table, own, FrameLayout([1 + count for count in counts]))

    def on(self, device: torch.device) -> TowerInput:
        """The same on `device`. Pinned pixels are copied asynchronously."""
        source, place, back = all_to_device((self.source, self.place, self.back), device)
        return TowerInput(self.pixels.to(device, non_blocking=True), source, place, back, self.layout)


@dataclass(frozen=True, slots=True)
class _Block:
    """Weights of one block. `scales`: factors for the outputs of attention and MLP before the residual addition."""

    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    scales: tuple[Tensor, Tensor]
    qkv: Dense
    out: Dense
    up: Dense
    down: Dense


class Encoder:
    """The first `depth` blocks of an InternVL vision tower. Its modules stay usable."""

    def __init__(self, tower: Any, depth: int) -> None:
        layers = tower.encoder.layer[:depth]
        attention = layers[0].attention
        self.heads, self.head_dim, self._scale = attention.num_heads, attention.head_dim, float(attention.scale)
        self._blocks = [_block(layer) for layer in layers]
        weight = attention.projection_layer.weight
        self._fused = fused_on(weight.device, weight.dtype)

    @staticmethod
    def of(tower: Any, depth: int) -> Encoder | None:
        """None if this loop does not support the blocks."""
        config = tower.config
        plain = (
            depth > 0
            and config.hidden_act == "gelu"
            and not config.use_qk_norm
            and all(isinstance(layer.layernorm_before, nn.LayerNorm) for layer in tower.encoder.layer)
        )
        return Encoder(tower, depth) if plain else None

    def weights(self) -> Iterator[Tensor]:
        """Those of its matrix products."""
        for block in self._blocks:
            yield from (block.qkv.weight, block.out.weight, block.up.weight, block.down.weight)

    def __call__(self, hidden: Tensor, layout: FrameLayout | FixedFrames) -> Tensor:
        """`hidden`: (rows, hidden); returns the same shape, not normalised."""
        first = self._blocks[0].norms[0]
        x = layer_norm(hidden, first.normalized_shape, first.weight, first.bias, first.eps)
        for number, block in enumerate(self._blocks):
            query, key, value = block.qkv(x).view(len(x), 3, self.heads, self.head_dim).unbind(1)
            seen = within_frames(query, key, value, layout, self._scale).flatten(1)
            hidden, x = self._enter(hidden, block.out(seen), block.scales[0], block.norms[1])
            delta = block.down(gelu(block.up(x)))
            if number + 1 == len(self._blocks):
                return hidden + block.scales[1] * delta
            hidden, x = self._enter(hidden, delta, block.scales[1], self._blocks[number + 1].norms[0])
        return hidden

    def _enter(self, hidden: Tensor, delta: Tensor, scale: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        return self._fused.add_scaled_norm(hidden, delta, scale, norm.weight, norm.bias, norm.eps)


def _block(layer: Any) -> _Block:
    attention, mlp = layer.attention, layer.mlp
    return _Block(
        norms=(layer.layernorm_before, layer.layernorm_after),
        scales=(layer.lambda_1.detach(), layer.lambda_2.detach()),
        qkv=join(attention.q_proj, attention.k_proj, attention.v_proj),
        out=Dense(attention.projection_layer.weight, attention.projection_layer.bias),
        up=Dense(mlp.fc1.weight, mlp.fc1.bias),
        down=Dense(mlp.fc2.weight, mlp.fc2.bias),
    )
