"""The text model while it learns: low-rank additions to every linear layer, few kernels, a mask that hides what is over.

The weights are transformers' Llama layers'; the arithmetic is theirs too (a test compares both). What is different is how it
is launched: a GPU that waits for Python was busy 29 % of the first run. So the low-rank products of all layers are summed in
one batched product a kind of matrix, and query, key and value, or gate and up, are one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

RANK, SCALE = 16, 2.0

KINDS = {
    "attention_in": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_out": ("self_attn.o_proj",),
    "mlp_in": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp_out": ("mlp.down_proj",),
}
"""Matrices that take the same input and so are one."""


class LowRank(nn.Module):
    """A kind of matrix in all layers: frozen weights (layers, out, in), and trained products of each module of the kind."""

    weight: Tensor

    def __init__(self, layers: list[nn.Module], modules: tuple[str, ...]) -> None:
        super().__init__()
        self.modules_of_kind = modules
        found = [[_weight(layer, name) for name in modules] for layer in layers]
        self.register_buffer("weight", torch.stack([torch.cat(parts) for parts in found]), persistent=False)
        self.sizes = [part.shape[0] for part in found[0]]
        n, wide = len(layers), found[0][0].shape[1]
        device = self.weight.device
        self.a = nn.ParameterList(torch.randn(n, RANK, wide, device=device) / math.sqrt(wide) for _ in modules)
        self.b = nn.ParameterList(torch.zeros(n, size, RANK, device=device) for size in self.sizes)

    def forward(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The sums, one (out, in) for each layer."""
        product = torch.cat([torch.bmm(b, a) for a, b in zip(self.a, self.b, strict=True)], 1)
        return torch.add(self.weight, product, alpha=SCALE).to(dtype).unbind(0)

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """`<layer>.<module>.a` and `.b`, views of the stacked parameters."""
        for at, module in enumerate(self.modules_of_kind):
            for layer in range(len(self.weight)):
                yield f"{layer}.{module}.a", self.a[at][layer]
                yield f"{layer}.{module}.b", self.b[at][layer]


class Text(nn.Module):
    """transformers' LlamaModel `llama` with low-rank additions. Matrices are in `dtype`, the residual in float32."""

    norms: Tensor
    last: Tensor
    frequencies: Tensor

    def __init__(self, llama: Any, dtype: torch.dtype) -> None:
        super().__init__()
        config = llama.config
        layers = list(llama.layers)
        self.dtype, self.layers, self.eps = dtype, len(layers), config.rms_norm_eps
        self.heads, self.groups, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.kinds = nn.ModuleDict({kind: LowRank(layers, modules) for kind, modules in KINDS.items()})
        norms = [torch.stack([_weight(layer, name) for layer in layers]) for name in _NORMS]
        self.register_buffer("norms", torch.stack(norms, 1), persistent=False)  # (layers, 2, hidden)
        self.register_buffer("last", llama.norm.weight.detach().float(), persistent=False)
        self.register_buffer("frequencies", llama.rotary_emb.inv_freq.detach().float(), persistent=False)

    def forward(
        self, embeds: Tensor, positions: Tensor, mask: Tensor, carried: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(n, length, hidden) float32 hidden states after the last norm.

        `embeds`: (n, length, hidden) float32. `positions`: (n, length). `carried`: (n, c) tokens whose keys and values are
        there once more, and the positions (n, c) of those keys. `mask`: (n, 1, length, length + c) bool.
        """
        additive = torch.zeros(mask.shape, dtype=self.dtype, device=mask.device).masked_fill_(~mask, -math.inf)
        turn, again = self._turns(positions), None
        if carried is not None and carried[0].shape[1]:
            again = carried[0], self._turns(carried[1])
        weights = {kind: module(self.dtype) for kind, module in self.kinds.items()}
        x = embeds
        for i in range(self.layers):
            x = self._layer(x, turn, again, additive, self.norms[i], *(weights[kind][i] for kind in KINDS))
        return functional.rms_norm(x, self.last.shape, self.last, self.eps)

    def _turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (n, length, 1, width) of the rotations at `positions` (n, length)."""
        angles = positions[..., None].float() * self.frequencies
        angles = torch.cat([angles, angles], -1)[:, :, None]
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def _turned(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        half = torch.cat([-x[..., self.width // 2 :], x[..., : self.width // 2]], -1)
        return torch.addcmul(x * turn[0], half, turn[1])

    def _layer(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        again: tuple[Tensor, tuple[Tensor, Tensor]] | None,
        mask: Tensor,
        norms: Tensor,
        into: Tensor,
        out: Tensor,
        up: Tensor,
        down: Tensor,
    ) -> Tensor:
        n, length, hidden = x.shape
        y = functional.rms_norm(x, (hidden,), norms[0], self.eps).to(self.dtype)
        both = functional.linear(y, into).view(n, length, self.heads + 2 * self.groups, self.width)
        turned = self._turned(both[:, :, : self.heads + self.groups], turn)
        keys, values = turned[:, :, self.heads :], both[:, :, self.heads + self.groups :]
        if again is not None:
            rows = torch.arange(n, device=x.device)[:, None]
            moved = both[:, :, self.heads :][rows, again[0]]  # (n, c, 2 * groups, width)
            keys = torch.cat([keys, self._turned(moved[:, :, : self.groups], again[1])], 1)
            values = torch.cat([values, moved[:, :, self.groups :]], 1)
        q = turned[:, :, : self.heads].transpose(1, 2)
        k, v = (t.transpose(1, 2).repeat_interleave(self.heads // self.groups, 1) for t in (keys, values))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + functional.linear(y.transpose(1, 2).reshape(n, length, hidden), out)
        y = functional.rms_norm(x, (hidden,), norms[1], self.eps).to(self.dtype)
        gate, value = functional.linear(y, up).chunk(2, -1)
        return x + functional.linear(functional.silu(gate) * value, down)

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """The low-rank parameters of every module, by `<layer>.<module>.a` and `.b`."""
        for kind in self.kinds.values():
            assert isinstance(kind, LowRank)
            yield from kind.named()


def _weight(layer: nn.Module, name: str) -> Tensor:
    weight = layer.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach().float()


_NORMS = ("input_layernorm", "post_attention_layernorm")
