"""The blocks of a ViT as one packed loop over transformers' own weights, like decoder.py for the text model.

The few patches of one stream do not saturate a GPU: a small batch is bound by the host's kernel launches. A block takes
eight launches here and twenty in transformers' modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from codecflow.vlm.attention import FixedFrames, FrameLayout, within_frames
from codecflow.vlm.dense import Dense, join
from codecflow.vlm.fused import fused_on


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

    def __call__(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        """`hidden`: (patches, hidden) of frames with `lengths` patches each; returns the same shape, not normalised."""
        return self.blocks(hidden, FrameLayout(lengths))

    def weights(self) -> Iterator[Tensor]:
        """Those of its matrix products."""
        for block in self._blocks:
            yield from (block.qkv.weight, block.out.weight, block.up.weight, block.down.weight)

    def blocks(self, hidden: Tensor, layout: FrameLayout | FixedFrames) -> Tensor:
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
