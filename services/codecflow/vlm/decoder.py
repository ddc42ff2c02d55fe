"""The text model's layers as one packed loop over transformers' own weights.

transformers runs a decoder layer as some forty small operations, each of which reads and writes all hidden states. Here the
query, key and value projections are one matrix product, gate and up another, and each step between products is one pass over
memory (fused.py). The last layer stops after keys and values for tokens whose hidden states are not needed.

It covers the decoders of the families: Llama, Qwen2, Qwen3, and Qwen3-VL's with DeepStack. Any other model runs through
transformers' forward, which is also the reference in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from codecflow.vlm.attention import FixedLayout, StreamLayout, within_streams
from codecflow.vlm.dense import QUANTISED, Dense, Projection, join
from codecflow.vlm.fused import HeadNorms, fused_on
from codecflow.vlm.kv_pool import PoolCache
from codecflow.vlm.transfer import to_device

MODELS = ("LlamaModel", "Qwen2Model", "Qwen3Model", "Qwen3VLTextModel")
"""transformers' text models whose layers this loop computes."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Inputs of one forward of the text model: packed tokens of many streams.

    `embeds`: (tokens, hidden), including the first features of visual tokens. `positions`: (axes, tokens) int64. `visual`:
    (visual tokens,) int64, their packed indices. `features`: (visual tokens, levels, hidden). `layout`: which tokens see
    which. `cache` receives keys and values and writes them to `slots` of the pool, (tokens,), here on the CPU. `wanted`:
    packed indices, ascending, of the tokens whose hidden states are returned; None: all.
    """

    embeds: Tensor
    positions: Tensor
    visual: Tensor
    features: Tensor
    layout: StreamLayout | FixedLayout
    cache: PoolCache
    slots: npt.NDArray[np.int64]
    wanted: Sequence[int] | Tensor | None = None


Layers = Callable[[Packed, Tensor, Tensor], Tensor]
"""Computes a forward's hidden states like `Decoder.__call__`."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer. `norms`: before attention, before the MLP. `head_norms`: of queries and of keys, if any."""

    norms: tuple[Tensor, Tensor]
    qkv: Projection
    out: Projection
    gate_up: Projection
    down: Projection
    head_norms: HeadNorms
    scale: float


class Decoder:
    """The layers of one text model. The model's modules stay usable: their weights become views of the joined ones."""

    def __init__(self, text: Any, weights: str = "auto") -> None:
        config = text.config
        attention = text.layers[0].self_attn
        self._text = text
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(getattr(config, "num_key_value_heads", None) or self._heads)
        self._head_dim = int(attention.head_dim)
        self._epsilon = float(config.rms_norm_eps)
        weight = text.embed_tokens.weight
        self._layers = []
        for module in text.layers:  # one by one: in 8 bits they may fit where they would not fit as they are
            layer = self._joined(module.to(weight.device))
            self._layers.append(layer if weights == "auto" else _quantised(layer, module, weights))
        self._fused = fused_on(weight.device, weight.dtype)

    @staticmethod
    def of(text: Any, weights: str = "auto") -> Decoder | None:
        """None if this loop does not support the model. `weights`: auto, or a precision of QUANTISED."""
        if type(text).__name__ not in MODELS:
            return None
        config, layer = text.config, text.layers[0]
        plain = (
            config.hidden_act == "silu"
            and getattr(layer.mlp.gate_proj, "bias", None) is None
            and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
            and 2 * len(text.rotary_emb.inv_freq) == layer.self_attn.head_dim
        )
        return Decoder(text, weights) if plain else None

    def quantise(self, weights: str) -> None:
        """Converts its linear layers to 8 bits, as QUANTISED names them. transformers' modules lose their weights."""
        for number, module in enumerate(self._text.layers):
            self._layers[number] = _quantised(self._layers[number], module, weights)

    def narrows(self, levels: int) -> bool:
        """Whether the last layer may skip tokens that are not wanted. False if features enter after it."""
        return levels <= len(self._layers)

    def __call__(self, packed: Packed, cos: Tensor, sin: Tensor) -> Tensor:
        """`cos`, `sin`: (tokens, head_dim). Returns (tokens wanted, hidden), normalised."""
        layout, wanted = packed.layout, packed.wanted
        levels = packed.features.shape[1] - 1  # further features, one after each of the first layers
        narrows = wanted is not None and self.narrows(packed.features.shape[1])
        hidden, delta = packed.embeds, None
        for number, layer in enumerate(self._layers):
            hidden, x = self._enter(hidden, delta, layer.norms[0])
            narrow = narrows and number == len(self._layers) - 1
            query, key, value = self._project(layer, x, cos, sin)
            packed.cache.put(number, key, value)
            if narrow:
                assert wanted is not None
                if not len(wanted):
                    return hidden[:0]
                places = _places(wanted, hidden.device)
                query, hidden, layout = query[places], hidden[places], layout.narrowed(wanted)
            seen = within_streams(query, layout, number, layer.scale)
            hidden, x = self._fused.add_norm(hidden, layer.out(seen.flatten(1)), layer.norms[1], self._epsilon)
            delta = layer.down(self._fused.gated(layer.gate_up(x)))
            if number < levels:
                delta.index_add_(0, packed.visual, packed.features[:, number + 1].to(delta.dtype))
        _, x = self._enter(hidden, delta, self._text.norm.weight)
        if wanted is not None and not narrows:
            return x[_places(wanted, x.device)]
        return x

    def _enter(self, hidden: Tensor, delta: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states plus the previous layer's output, and their normalised values."""
        if delta is None:
            return hidden, self._fused.norm(hidden, weight, self._epsilon)
        return self._fused.add_norm(hidden, delta, weight, self._epsilon)

    def _project(self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query (tokens, heads, head_dim), key and value (tokens, kv_heads, head_dim)."""
        heads = layer.qkv(x).view(len(x), -1, self._head_dim)
        turned = self._heads + self._kv_heads
        self._fused.rotate(heads[:, :turned], self._heads, cos, sin, layer.head_norms, self._epsilon)
        return heads[:, : self._heads], heads[:, self._heads : turned], heads[:, turned:]

    def _joined(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        norms = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        return _Layer(
            norms=(layer.input_layernorm.weight, layer.post_attention_layernorm.weight),
            qkv=join(attention.q_proj, attention.k_proj, attention.v_proj),
            out=Dense(attention.o_proj.weight, attention.o_proj.bias),
            gate_up=join(mlp.gate_proj, mlp.up_proj),
            down=Dense(mlp.down_proj.weight, mlp.down_proj.bias),
            head_norms=None if norms[0] is None or norms[1] is None else (norms[0].weight, norms[1].weight),
            scale=float(attention.scaling),
        )


def _quantised(layer: _Layer, module: Any, weights: str) -> _Layer:
    parts = {name: getattr(layer, name) for name in ("qkv", "out", "gate_up", "down")}
    smaller = {name: QUANTISED[weights](part) for name, part in parts.items() if isinstance(part, Dense)}
    for own in (*module.self_attn.modules(), *module.mlp.modules()):
        if isinstance(own, nn.Linear):
            own.weight = nn.Parameter(own.weight.new_empty(0), requires_grad=False)
    return replace(layer, **smaller)  # type: ignore[arg-type]  # all four are projections


def _places(wanted: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    return wanted if isinstance(wanted, Tensor) else to_device(np.asarray(wanted, dtype=np.int64), device)
