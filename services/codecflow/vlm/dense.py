"""Linear layers of transformers' modules, joined where they share an input."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from codecflow.vlm.fused import fused_on
from codecflow.vlm.graphs import stepped

_INT8_MAX = 127


class Projection(Protocol):
    """(tokens, in) -> (tokens, out)."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


def in_few_sizes(layer: Projection, x: Tensor) -> Tensor:
    """`layer(x)`. On a CPU in half precision with the rows padded to few sizes: oneDNN compiles a product for each
    size, which takes milliseconds and half a MiB, and keeps about a thousand of them."""
    if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float16):
        return layer(x)
    rows = len(x)
    return layer(pad(x, (0, 0, 0, stepped(rows) - rows)))[:rows]


class Dense:
    """A linear layer: (tokens, in) -> (tokens, out)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return in_few_sizes(lambda rows: linear(rows, self.weight, self.bias), x)


def join(*modules: nn.Linear) -> Dense:
    """One layer with the outputs of several. Their weights become views of the joined ones, so the modules stay usable."""
    weight = torch.cat([module.weight.detach() for module in modules])
    biases = [module.bias for module in modules]
    bias = None if biases[0] is None else torch.cat([one.detach() for one in biases])
    at = 0
    for module in modules:
        rows = slice(at, at + len(module.weight))
        module.weight = nn.Parameter(weight[rows], requires_grad=False)
        if bias is not None:
            module.bias = nn.Parameter(bias[rows], requires_grad=False)
        at = rows.stop
    return Dense(weight, bias)


class Int8:
    """A linear layer whose weights are 8-bit integers with a scale per output. They are expanded to the inputs' precision
    for each product: half the memory on any device, for the time of expanding."""

    def __init__(self, dense: Dense) -> None:
        wide = dense.weight.float()
        scale = wide.abs().amax(1, keepdim=True).clamp(min=1e-12) / _INT8_MAX
        self.weight = (wide / scale).round().to(torch.int8)
        self.scale = scale[:, 0].to(dense.weight.dtype)
        self.bias = dense.bias

    def __call__(self, x: Tensor) -> Tensor:
        product = in_few_sizes(lambda rows: linear(rows, self.weight.to(x.dtype)), x) * self.scale
        return product if self.bias is None else product + self.bias


class Fp8:
    """A linear layer in 8-bit floating point (e4m3): weights have a scale per output, inputs a scale per token that is
    computed on the fly. Sums are accumulated in higher precision.

    GPUs with FP8 matrix units (Hopper and later) run it at about 1.8 times bfloat16's rate. Elsewhere the same numbers are
    multiplied in float32: to evaluate answers, not for speed.
    """

    def __init__(self, dense: Dense) -> None:
        fused = fused_on(dense.weight.device, dense.weight.dtype)
        self._quantised = fused.quantised
        self.weight, self.scale = self._quantised(dense.weight)
        self.bias = dense.bias
        self._units = dense.weight.is_cuda and all(size % 16 == 0 for size in dense.weight.shape)

    def __call__(self, x: Tensor) -> Tensor:
        values, scale = self._quantised(x)
        if not self._units:
            product = linear(values.float() * scale, self.weight.float() * self.scale)
            return (product if self.bias is None else product + self.bias.float()).to(x.dtype)
        found: Tensor = torch._scaled_mm(
            values,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale.t(),
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return found


QUANTISED: dict[str, type[Int8] | type[Fp8]] = {"fp8": Fp8, "int8": Int8}
"""Layers in 8 bits, by the name of the weights' precision."""
