"""Attention of single queries that reads the pool's pages in place: a Triton kernel, imported only on machines with a GPU.

With one query per sequence the cost is that of reading keys and values; gathering them first would triple it. Each
sequence's keys are split into parts that different programs read. A second kernel merges their results (Flash-Decoding).
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from codecflow.vlm.kernels import Scaled

_BLOCK = 64


@triton.jit  # type: ignore[untyped-decorator]
def _read_kernel(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    key_scales,
    value_scales,
    pages,
    parts,
    partial,
    logs,
    scale,
    query_stride,
    token_stride,
    heads,
    scaled: tl.constexpr,
    groups: tl.constexpr,
    rows: tl.constexpr,
    head_dim: tl.constexpr,
    page: tl.constexpr,
    block: tl.constexpr,
):
    """One part of one sequence's keys, for the query heads that share a key head."""
    part, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(parts + 4 * part).to(tl.int64)
    first, stop, table = tl.load(parts + 4 * part + 1), tl.load(parts + 4 * part + 2), tl.load(parts + 4 * part + 3)
    group, place, inner = tl.arange(0, rows), tl.arange(0, head_dim), tl.arange(0, block)
    head = kv_head * groups + group
    own = group < groups
    q = tl.load(query + row * query_stride + head[:, None] * head_dim + place[None, :], mask=own[:, None], other=0.0)
    top = tl.full((rows,), float("-inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    found = tl.zeros((rows, head_dim), tl.float32)
    for start in range(first, stop, block):
        key = start + inner
        there = key < stop
        number = tl.load(pages + table + key // page, mask=there, other=0)
        token = number * page + key % page
        slot = token * token_stride + kv_head * head_dim
        k = tl.load(keys + slot[None, :] + place[:, None], mask=there[None, :], other=0.0).to(q.dtype)
        scores = tl.dot(q, k) * scale
        if scaled:
            scores *= tl.load(key_scales + token * tl.num_programs(1) + kv_head, mask=there, other=0.0)[None, :]
        scores = tl.where(there[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        v = tl.load(values + slot[:, None] + place[None, :], mask=there[:, None], other=0.0).to(q.dtype)
        if scaled:
            weights *= tl.load(value_scales + token * tl.num_programs(1) + kv_head, mask=there, other=0.0)[None, :]
        found = found * shrink[:, None] + tl.dot(weights.to(v.dtype), v)
        top = higher
    tl.store(
        partial + (part * heads + head[:, None]) * head_dim + place[None, :], found / total[:, None], mask=own[:, None]
    )
    tl.store(logs + part * heads + head, top + tl.log(total), mask=own)


@triton.jit  # type: ignore[untyped-decorator]
def _merge_kernel(partial, logs, bounds, out, heads, head_dim: tl.constexpr):  # type: ignore[no-untyped-def]
    """Merges all parts of one query head."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tl.arange(0, head_dim)
    top = float("-inf")
    total = 0.0
    found = tl.zeros((head_dim,), tl.float32)
    for part in range(tl.load(bounds + row), tl.load(bounds + row + 1)):
        log = tl.load(logs + part * heads + head)
        values = tl.load(partial + (part * heads + head) * head_dim + place)
        higher = tl.maximum(top, log)
        shrink, weight = tl.exp(top - higher), tl.exp(log - higher)
        found = found * shrink + values * weight
        total = total * shrink + weight
        top = higher
    tl.store(out + (row * heads + head) * head_dim + place, (found / total).to(out.dtype.element_ty))


def single_queries(
    query: Tensor,
    keys: Scaled,
    values: Scaled,
    pages: Tensor,
    parts: Tensor,
    bounds: Tensor,
    page: int,
    scale: float,
) -> Tensor:
    """`query`: (rows, heads, head_dim). `keys`, `values`: (slots, kv_heads, head_dim), one layer of the pool, and scales
    (slots, kv_heads) if they are in 8 bits. `pages`: (pages,) int64, of all streams. `parts`: (parts, 4) int32: a row, the
    range of keys that it sees, and the index of the first of their pages; `bounds`: (rows + 1,) int32, the range of parts of
    each row. Returns the shape of `query`."""
    (stored_keys, key_scales), (stored_values, value_scales) = keys, values
    rows, heads, head_dim = query.shape
    kv_heads = stored_keys.shape[1]
    partial = torch.empty(len(parts), heads, head_dim, dtype=torch.float32, device=query.device)
    logs = torch.empty(len(parts), heads, dtype=torch.float32, device=query.device)
    groups = heads // kv_heads
    _read_kernel[(len(parts), kv_heads)](
        query,
        stored_keys,
        stored_values,
        logs if key_scales is None else key_scales,
        logs if value_scales is None else value_scales,
        pages,
        parts,
        partial,
        logs,
        scale,
        query.stride(0),
        stored_keys.stride(0),
        heads,
        scaled=key_scales is not None,
        groups=groups,
        rows=max(16, triton.next_power_of_2(groups)),
        head_dim=head_dim,
        page=page,
        block=_BLOCK,
    )
    out = torch.empty(rows, heads, head_dim, dtype=query.dtype, device=query.device)
    _merge_kernel[(rows, heads)](partial, logs, bounds, out, heads, head_dim=head_dim)
    return out
