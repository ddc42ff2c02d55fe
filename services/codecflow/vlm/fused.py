"""The operations between the matrix products of a layer, each as one pass over memory.

On a GPU each function is one Triton kernel, used only after its results have been verified against the plain version. On a
CPU, and where Triton does not work, the plain versions run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, silu

_logger = logging.getLogger("codecflow.engine")

_E4M3_MAX = 448.0
E4M3_ROUNDING = 16 / 448
"""Maximum rounding error of e4m3, relative to the largest value: half of the step below it."""

HeadNorms = tuple[Tensor, Tensor] | None
"""Weights of the norms of query heads and of key heads, (head_dim,) each, where a model has them."""


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm (arXiv 1910.07467) of `x` (tokens, hidden), rounded like transformers' own."""
    wide = x.float()
    normed: Tensor = weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype)
    return normed


def add_norm(hidden: Tensor, delta: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The sum of both (tokens, hidden), and its `norm`."""
    total = hidden + delta
    return total, norm(total, weight, epsilon)


def add_scaled_norm(
    hidden: Tensor, delta: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The sum of `hidden` and `scale` (hidden,), if given, times `delta` (patches, hidden), and its LayerNorm."""
    total = hidden + (delta if scale is None else scale * delta)
    return total, layer_norm(total, weight.shape, weight, bias, epsilon)


def gated(x: Tensor) -> Tensor:
    """`x`: (tokens, 2 * intermediate), gate and up -> (tokens, intermediate)."""
    gate, up = x.chunk(2, dim=-1)
    return silu(gate) * up


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` (rows, width) in 8-bit floating point (e4m3), and the scale (rows, 1) float32 of each row: values are multiplied
    by it to restore `x`."""
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp(min=1e-12) / _E4M3_MAX
    return (wide / scale).clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn), scale


def expanded(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `quantised`: `x` (rows, width) e4m3 times `scale` (rows, 1), in `dtype`. Rows are short."""
    return (x.float() * scale).to(dtype)


def rotate(heads: Tensor, queries: int, cos: Tensor, sin: Tensor, norms: HeadNorms, epsilon: float) -> None:
    """Rotary positions (arXiv 2104.09864) in halves, in place. `heads`: (rows, query and key heads, head_dim), the first
    `queries` of them queries. Applies `norms` first if given. `cos`, `sin`: (tokens, head_dim), with identical halves; used
    again for every further `tokens` rows."""
    x = heads
    if norms is not None:
        x = torch.cat([norm(heads[:, :queries], norms[0], epsilon), norm(heads[:, queries:], norms[1], epsilon)], dim=1)
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    x, turned = (one.view(-1, len(cos), *one.shape[1:]) for one in (x, turned))
    heads.copy_((x * cos[:, None] + turned * sin[:, None]).flatten(0, 1))


@dataclass(frozen=True, slots=True)
class Fused:
    """The implementations of this module's functions for one device."""

    norm: Callable[[Tensor, Tensor, float], Tensor] = norm
    add_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]] = add_norm
    add_scaled_norm: Callable[[Tensor, Tensor, Tensor | None, Tensor, Tensor, float], tuple[Tensor, Tensor]] = (
        add_scaled_norm
    )
    gated: Callable[[Tensor], Tensor] = gated
    quantised: Callable[[Tensor], tuple[Tensor, Tensor]] = quantised
    expanded: Callable[[Tensor, Tensor, torch.dtype], Tensor] = expanded
    rotate: Callable[[Tensor, int, Tensor, Tensor, HeadNorms, float], None] = rotate


TOLERANCE = 0.02
"""Maximum difference at which a kernel is used, relative to the largest value: bfloat16 rounds at 0.004, or at twice that
where two roundings combine."""


@lru_cache(maxsize=8)
def fused_on(device: torch.device, dtype: torch.dtype) -> Fused:
    """The functions for `device`: Triton's where their results are correct. Logs when they are not."""
    if device.type != "cuda":
        return Fused()
    try:
        from codecflow.vlm import fused_triton

        found = fused_triton.FUSED
        off = deviation(found, device, dtype)
    except Exception as error:  # noqa: BLE001  # no Triton, no compiler for it, or an unsupported GPU
        _logger.warning("Triton cannot be used here, layers are slower: %s", str(error).partition("\n")[0])
        return Fused()
    if off > TOLERANCE:
        _logger.warning("Triton's kernels are %.3f off here, so they are not used; layers are slower", off)
        return Fused()
    try:
        off = eight_bit_deviation(found, device, dtype) - E4M3_ROUNDING
    except Exception as error:  # noqa: BLE001  # a GPU without 8-bit floating point
        _logger.info("Triton has no 8-bit floating point here: %s", str(error).partition("\n")[0])
        off = float("inf")
    return found if off <= TOLERANCE else replace(found, quantised=quantised, expanded=expanded)


def deviation(found: Fused, device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference between any function of `found` and the plain version, relative to the largest value."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator).to(dtype)

    worst = 0.0
    for tokens, heads, head_dim, width in ((1, 3, 16, 24), (37, 6, 128, 200), (5, 9, 64, 3584)):
        x, delta, weight, gates = random(tokens, width), random(tokens, width), random(width), random(tokens, 2 * width)
        cos, sin = (random(tokens, head_dim // 2).repeat(1, 2) for _ in range(2))
        norms = random(head_dim), random(head_dim)
        packed = random(tokens, heads + 2, head_dim)
        pairs = [(found.norm(x, weight, 1e-6), norm(x, weight, 1e-6)), (found.gated(gates), gated(gates))]
        pairs += zip(found.add_norm(x, delta, weight, 1e-6), add_norm(x, delta, weight, 1e-6), strict=True)
        scale, bias = random(width), random(width)
        for factor in (scale, None):
            pairs += zip(
                found.add_scaled_norm(x, delta, factor, weight, bias, 1e-6),
                add_scaled_norm(x, delta, factor, weight, bias, 1e-6),
                strict=True,
            )
        for given, rows in ((None, packed), (norms, packed), (None, packed.repeat(3, 1, 1))):
            ours, plain = rows.clone(), rows.clone()
            found.rotate(ours[:, :heads], heads - 1, cos, sin, given, 1e-6)
            rotate(plain[:, :heads], heads - 1, cos, sin, given, 1e-6)
            pairs.append((ours, plain))
        for ours, plain in pairs:
            off = (ours.float() - plain.float()).abs().max() / plain.float().abs().max()
            worst = max(worst, float(off.nan_to_num(1e9)))
    return worst


def eight_bit_deviation(found: Fused, device: torch.device, dtype: torch.dtype) -> float:
    """Maximum rounding error in 8 bits, relative to the largest value of the row, for long and for short rows."""
    worst = 0.0
    for rows, width in ((37, 5000), (1003, 128), (5, 24)):
        x = torch.randn(rows, width, device=device, generator=torch.Generator(device).manual_seed(0)).to(dtype)
        values, scale = found.quantised(x)
        plain = values.float() * scale
        back = found.expanded(values, scale, dtype).float() if width < 4096 else plain
        most = x.float().abs().amax(1)
        for one in (plain, back):
            off = (one - x.float()).abs().amax(1) / most
            worst = max(worst, float(off.max().nan_to_num(1e9)))
    return worst
