"""Triton kernels for fused.py: each reads and writes every value once. Imported only on machines with a GPU."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from codecflow.vlm.fused import Fused, HeadNorms

_GATE_BLOCK = 1024
_SHORT_ROWS = 16

_HEADS = 8  # heads per program


@triton.jit  # type: ignore[untyped-decorator]
def _norm_kernel(  # type: ignore[no-untyped-def]
    x, delta, weight, total, normed, width, epsilon, adds: tl.constexpr, block: tl.constexpr
):
    """One row per program."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, block)
    inside = column < width
    values = tl.load(x + row + column, mask=inside, other=0.0)
    if adds:
        values = values + tl.load(delta + row + column, mask=inside, other=0.0)
        tl.store(total + row + column, values, mask=inside)
    wide = values.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / width + epsilon)
    factor = tl.load(weight + column, mask=inside, other=0.0)
    tl.store(normed + row + column, factor * (wide * scale).to(values.dtype), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _layer_norm_kernel(  # type: ignore[no-untyped-def]
    x, delta, factor, weight, bias, total, normed, width, epsilon, scales: tl.constexpr, block: tl.constexpr
):
    """One row per program."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, block)
    inside = column < width
    added = tl.load(delta + row + column, mask=inside, other=0.0)
    if scales:
        added = tl.load(factor + column, mask=inside, other=0.0) * added
    values = tl.load(x + row + column, mask=inside, other=0.0) + added
    tl.store(total + row + column, values, mask=inside)
    wide = values.to(tl.float32)
    mean = tl.sum(wide, axis=0) / width
    centred = tl.where(inside, wide - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / width + epsilon)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row + column, (centred * scale * w + b).to(values.dtype), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _gate_kernel(x, out, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """One block of a row per program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    gate = tl.load(x + 2 * row * width + column, mask=inside, other=0.0)
    up = tl.load(x + (2 * row + 1) * width + column, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    tl.store(out + row * width + column, (wide * tl.sigmoid(wide)).to(gate.dtype) * up, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _quantise_kernel(x, out, scales, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row per program, read twice: the second time from the cache."""
    number = tl.program_id(0).to(tl.int64)
    row = number * width
    inner = tl.arange(0, block)
    most = tl.full((block,), 1e-12, tl.float32)
    for start in range(0, width, block):
        values = tl.load(x + row + start + inner, mask=start + inner < width, other=0.0).to(tl.float32)
        most = tl.maximum(most, tl.abs(values))
    scale = tl.max(most, axis=0) / 448.0
    tl.store(scales + number, scale)
    for start in range(0, width, block):
        inside = start + inner < width
        values = tl.load(x + row + start + inner, mask=inside, other=0.0).to(tl.float32) / scale
        values = tl.minimum(tl.maximum(values, -448.0), 448.0)
        tl.store(out + row + start + inner, values.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _expand_kernel(  # type: ignore[no-untyped-def]
    x, scales, out, rows, width, some: tl.constexpr, block: tl.constexpr
):
    """`some` short rows per program."""
    number = tl.program_id(0).to(tl.int64) * some + tl.arange(0, some)
    place = tl.arange(0, block)
    inside = (number[:, None] < rows) & (place[None, :] < width)
    at = number[:, None] * width + place[None, :]
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(scales + number, mask=number < rows, other=0.0)
    tl.store(out + at, (values * scale[:, None]).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _rotate_kernel(  # type: ignore[no-untyped-def]
    x,
    cos,
    sin,
    query_norm,
    key_norm,
    queries,
    heads,
    tokens,
    stride,
    epsilon,
    half: tl.constexpr,
    block: tl.constexpr,
    some: tl.constexpr,
    with_norms: tl.constexpr,
):
    """Some heads of one row per program, in place."""
    at = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * some + tl.arange(0, some)[:, None]
    place = tl.arange(0, block)[None, :]
    inside = (place < half) & (head < heads)
    start = x + at * stride + head * 2 * half + place
    first = tl.load(start, mask=inside, other=0.0)
    second = tl.load(start + half, mask=inside, other=0.0)
    if with_norms:
        a, b = first.to(tl.float32), second.to(tl.float32)
        scale = tl.rsqrt(tl.sum(a * a + b * b, axis=1) / (2 * half) + epsilon)[:, None]
        within = place < half
        asks = head < queries
        low = tl.where(
            asks, tl.load(query_norm + place, mask=within, other=0.0), tl.load(key_norm + place, mask=within, other=0.0)
        )
        high = tl.where(
            asks,
            tl.load(query_norm + half + place, mask=within, other=0.0),
            tl.load(key_norm + half + place, mask=within, other=0.0),
        )
        first = low * (a * scale).to(first.dtype)
        second = high * (b * scale).to(second.dtype)
    row = at % tokens * 2 * half + place
    c = tl.load(cos + row, mask=place < half, other=0.0).to(tl.float32)
    s = tl.load(sin + row, mask=place < half, other=0.0).to(tl.float32)
    a, b = first.to(tl.float32), second.to(tl.float32)
    tl.store(start, (a * c - b * s).to(first.dtype), mask=inside)
    tl.store(start + half, (b * c + a * s).to(first.dtype), mask=inside)


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """See fused.norm."""
    normed = torch.empty_like(x)
    size = triton.next_power_of_2(x.shape[-1])
    _norm_kernel[(len(x),)](x, x, weight, x, normed, x.shape[-1], epsilon, adds=False, block=size, num_warps=8)
    return normed


def add_norm(hidden: Tensor, delta: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """See fused.add_norm."""
    total, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    width = hidden.shape[-1]
    size = triton.next_power_of_2(width)
    _norm_kernel[(len(hidden),)](
        hidden, delta, weight, total, normed, width, epsilon, adds=True, block=size, num_warps=8
    )
    return total, normed


def add_scaled_norm(
    hidden: Tensor, delta: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """See fused.add_scaled_norm."""
    total, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    width = hidden.shape[-1]
    size = triton.next_power_of_2(width)
    factor = weight if scale is None else scale  # a pointer that is not read
    _layer_norm_kernel[(len(hidden),)](
        hidden,
        delta,
        factor,
        weight,
        bias,
        total,
        normed,
        width,
        epsilon,
        scales=scale is not None,
        block=size,
        num_warps=4,
    )
    return total, normed


def gated(x: Tensor) -> Tensor:
    """See fused.gated."""
    width = x.shape[-1] // 2
    out = x.new_empty(len(x), width)
    _gate_kernel[(len(x), triton.cdiv(width, _GATE_BLOCK))](x, out, width, block=_GATE_BLOCK)
    return out


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """See fused.quantised."""
    out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    block = min(4096, triton.next_power_of_2(x.shape[-1]))
    _quantise_kernel[(len(x),)](x, out, scales, x.shape[-1], block=block, num_warps=8 if block > 512 else 1)
    return out, scales


def expanded(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """See fused.expanded."""
    rows, width = x.shape
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    _expand_kernel[(triton.cdiv(rows, _SHORT_ROWS),)](
        x, scale, out, rows, width, some=_SHORT_ROWS, block=triton.next_power_of_2(width)
    )
    return out


def rotate(heads: Tensor, queries: int, cos: Tensor, sin: Tensor, norms: HeadNorms, epsilon: float) -> None:
    """See fused.rotate."""
    rows, count, head_dim = heads.shape
    query_norm, key_norm = norms or (cos, cos)
    _rotate_kernel[(rows, triton.cdiv(count, _HEADS))](
        heads,
        cos,
        sin,
        query_norm,
        key_norm,
        queries,
        count,
        len(cos),
        heads.stride(0),
        epsilon,
        half=head_dim // 2,
        block=triton.next_power_of_2(head_dim // 2),
        some=_HEADS,
        with_norms=norms is not None,
        num_warps=2,
    )


FUSED = Fused(norm, add_norm, add_scaled_norm, gated, quantised, expanded, rotate)
"""The Triton implementations of all functions."""
