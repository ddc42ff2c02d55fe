"""Packed attention, registered with transformers as the attention implementation "codecflow".

Every vision and text attention module of transformers asks `ALL_ATTENTION_FUNCTIONS` for the function to call. Ours takes
what attends to what from a layout, held in a context variable because vision layers pass no keyword arguments through.
Queries of all frames, or of all streams, lie packed in one row: (1, heads, tokens, head_dim). No mask function is
registered under this name, so transformers builds no mask either.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from codecflow.vlm.kv_pool import KVPool

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch < 2.10: frames of unequal length are then attended to one by one on the GPU too
    varlen_attn = None  # type: ignore[assignment]  # asked for before each use

NAME = "codecflow"

# Not cuDNN's: it makes a new plan for every shape, and hardly two of our calls have the same.
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """Vision: each frame's patches attend to one another and to nothing else. `lengths`: patches per frame, in order."""

    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """Packed queries [start, stop) attend to the first `kv_stop` keys of their stream.

    `mask`: (queries, kv_stop) bool, True where a query sees a key; None: the queries are the last keys in order, and each
    sees the keys up to its own.
    """

    start: int
    stop: int
    kv_stop: int
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PagedKeys:
    """One stream's keys and who reads them: `length` tokens in `pages` (pages,) of the pool, from place `offset` of the
    first page on. `segments` cover the stream's packed queries in order."""

    pages: Tensor
    offset: int
    length: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class StreamLayout:
    """Text: what a step attends to, streams in the order of their packed queries."""

    pool: KVPool
    streams: tuple[PagedKeys, ...]
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def mask(self, segment: Segment, device: torch.device) -> Tensor:
        """(queries, keys) bool, built once for all layers."""
        if segment.mask is not None:
            return segment.mask
        queries, keys = segment.stop - segment.start, segment.kv_stop
        if (queries, keys) not in self.masks:
            ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
            self.masks[queries, keys] = ones.tril(keys - queries)
        return self.masks[queries, keys]


_layout: ContextVar[FrameLayout | StreamLayout] = ContextVar("codecflow_layout")


@contextmanager
def attending(layout: FrameLayout | StreamLayout) -> Iterator[None]:
    """Calls of a model inside this block attend as `layout` says."""
    token = _layout.set(layout)
    try:
        with sdpa_kernel(_KERNELS):
            yield
    finally:
        _layout.reset(token)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. `query`: (1, heads, tokens, head_dim); returns (1, tokens, heads, head_dim).

    For text, `key` and `value` were written into the pool by the cache just before, and are read from there.
    Raises LookupError outside `attending`: there is no layout to guess.
    """
    layout = _layout.get()
    if isinstance(layout, FrameLayout):
        output = _within_frames(query, key, value, layout.lengths, scaling)
    else:
        layer = int(module.layer_idx)  # type: ignore[arg-type]  # an int on every text attention module
        output = _within_streams(query, layout, layer, scaling)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, packed_attention)


def _within_frames(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scaling: float) -> Tensor:
    if len(set(lengths)) == 1:  # whole frames: an ordinary batch
        frames = len(lengths)
        heads, tokens, head_dim = query.shape[1:]
        q, k, v = (x.view(heads, frames, tokens // frames, head_dim).transpose(0, 1) for x in (query, key, value))
        return scaled_dot_product_attention(q, k, v, scale=scaling).transpose(0, 1).flatten(1, 2).unsqueeze(0)
    if varlen_attn is not None and query.is_cuda and query.dtype != torch.float32:
        query = query * (
            scaling * query.shape[-1] ** 0.5
        )  # it scales by head_dim alone; not every release takes a scale
        ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=query.device)
        q, k, v = (x.squeeze(0).transpose(0, 1).contiguous() for x in (query, key, value))
        longest = max(lengths)
        result = varlen_attn(q, k, v, ends, ends, longest, longest)
        assert isinstance(result, Tensor)
        return result.transpose(0, 1).unsqueeze(0)
    bounds = list(itertools.accumulate(lengths))[:-1]
    parts = zip(*(x.tensor_split(bounds, dim=2) for x in (query, key, value)), strict=True)
    return torch.cat([scaled_dot_product_attention(q, k, v, scale=scaling) for q, k, v in parts], dim=2)


def _within_streams(query: Tensor, layout: StreamLayout, layer: int, scaling: float) -> Tensor:
    """The one place in which a step's plan becomes attention. It has each stream's keys as a table of pages, an offset and a
    length, and queries as consecutive rows: what a kernel for paged or ragged sequences takes."""
    parts = []
    for stream in layout.streams:
        keys, values = layout.pool.gather(layer, stream.pages, stream.offset, stream.offset + stream.length)
        for segment in stream.segments:
            q = query[:, :, segment.start : segment.stop]
            k, v = (x[: segment.kv_stop].transpose(0, 1)[None] for x in (keys, values))
            parts.append(_segment(q, k, v, segment, layout, scaling))
    return torch.cat(parts, dim=2)


def _segment(q: Tensor, k: Tensor, v: Tensor, segment: Segment, layout: StreamLayout, scaling: float) -> Tensor:
    """`q`: (1, heads, queries, head_dim); `k`, `v`: (1, kv_heads, keys, head_dim). Returns as `q`."""
    (heads, queries, head_dim), (kv_heads, keys) = q.shape[1:], k.shape[1:3]
    if segment.mask is None and queries == 1:  # heads that share keys become queries of one head: keys are read once
        folded = scaled_dot_product_attention(q.reshape(1, kv_heads, -1, head_dim), k, v, scale=scaling)
        return folded.reshape(1, heads, 1, head_dim)
    causal = segment.mask is None
    grouped = heads != kv_heads
    if (
        grouped and q.is_cuda and not (causal and q.dtype != torch.float32)
    ):  # there only flash kernels take grouped heads
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        grouped = False
    if causal and queries == keys:
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped)
    bias = causal_lower_right(queries, keys) if causal and q.is_cuda else layout.mask(segment, q.device)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scaling, enable_gqa=grouped)
