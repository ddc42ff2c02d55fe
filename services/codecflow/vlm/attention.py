"""Packed attention: which tokens attend to which, and how a step's plan becomes kernel calls.

Queries of all frames, or of all streams, are packed in one sequence. A layout defines which keys each query sees. It is held
in a context variable, because transformers' vision layers do not pass on keyword arguments: our function is registered with
transformers as the attention implementation "codecflow". No mask function is registered under that name, so transformers
builds no mask either.

On a GPU in half precision all streams of a step share one call of a kernel for ragged sequences, without masks (kernels.py).
Branches of a stream, such as questions, attend to its window in a second call. The two results are merged by their
log-sum-exp. Otherwise scaled_dot_product_attention is called for each stream.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from codecflow.vlm.kernels import NONE, PART, Kernel, Kernels, Sequences, choose_kernels, sequences_of
from codecflow.vlm.kv_pool import PAGE, KVPool
from codecflow.vlm.transfer import all_to_device, to_device

NAME = "codecflow"

# Not cuDNN's: it builds a new plan for every shape, and our shapes rarely repeat.
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

_CAUSAL_RUNS = 64
"""With more runs of one stream than this, one masked attention is cheaper than one causal attention per run."""

GATHERED = 1 << 19
"""Maximum keys per kernel call, unless a single stream has more: they are copied into one buffer, 1 GiB at 2 KiB per
token and layer."""


class FrameLayout:
    """Vision: the patches of a frame attend only to each other. `lengths`: patches per frame, in order."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = tuple(lengths)
        self._sequences: Sequences | None = None

    @property
    def planned(self) -> Sequences:
        """The same layout for a kernel, on the CPU."""
        ends = list(itertools.accumulate(self.lengths, initial=0))
        return sequences_of([(stop - start, start, stop) for start, stop in itertools.pairwise(ends)])

    def sequences(self, device: torch.device) -> Sequences:
        """The same layout for a kernel; computed once for all layers."""
        if self._sequences is None:
            self._sequences = self.planned.on(device)
        return self._sequences


@dataclass(frozen=True, slots=True)
class FixedFrames:
    """Vision: a layout of fixed size for `kernel`, whose tensors are overwritten from batch to batch."""

    sequences: Sequences
    kernel: Kernel


Keys = tuple[int, int]
"""A range of a stream's keys, counted from the first token of its window."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Packed queries [start, stop). They are the last of the keys in `causal`, and each sees those up to itself. All of them
    also see all keys of the ranges `shared`."""

    start: int
    stop: int
    causal: Keys
    shared: tuple[Keys, ...] = ()

    def part(self, row: int, at: int) -> Segment:
        """The segment of packed query `row` alone, moved to packed index `at`."""
        return Segment(at, at + 1, (self.causal[0], self.causal[1] - (self.stop - 1 - row)), self.shared)


@dataclass(frozen=True, slots=True)
class PagedKeys:
    """One stream's keys and the queries that read them. The keys are on `pages` (pages,) int64 of the pool, on the CPU, from
    token `offset` of the first page. `segments` cover the stream's packed queries in order."""

    pages: npt.NDArray[np.int64]
    offset: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """Streams that share a kernel call: packed queries [start, stop), all `pages` that they read, the keys that they see as
    causal sequences, and the queries (`rows`, relative to start) that see further ranges in full."""

    start: int
    stop: int
    pages: Tensor
    causal: Sequences
    shared: tuple[tuple[Tensor, Sequences], ...]

    def on(self, device: torch.device) -> Call:
        """The same on `device`, in one copy."""
        further = [tensor for rows, sequences in self.shared for tensor in (rows, *sequences.tensors)]
        moved = iter(all_to_device([self.pages, *self.causal.tensors, *further], device))
        pages, causal = next(moved), self.causal.taken(moved)
        shared = tuple((next(moved), sequences.taken(moved)) for _, sequences in self.shared)
        return Call(self.start, self.stop, pages, causal, shared)


Singles = tuple[Tensor, Tensor, Tensor]
"""Pages (int64), parts and bounds (int32) of single queries, as a SingleKernel takes them."""


@dataclass(frozen=True)
class StreamLayout:
    """Text: what each stream of a step attends to, in the order of packed queries. `kernels`: those for this device and
    precision."""

    pool: KVPool
    streams: tuple[PagedKeys, ...]
    kernels: Kernels = NONE
    _biases: dict[tuple[Segment, ...], Tensor] = field(default_factory=dict)

    def bias(self, segments: tuple[Segment, ...], keys: int, like: Tensor) -> Tensor:
        """(queries, keys), dtype and device of `like`: 0 where a query sees a key, otherwise -inf. Computed once for all
        layers: attention would convert a bool mask in each of them."""
        if segments not in self._biases:
            mask = torch.zeros(segments[-1].stop - segments[0].start, keys, dtype=torch.bool)
            place = torch.arange(keys)
            for segment in segments:
                rows = mask[segment.start - segments[0].start : segment.stop - segments[0].start]
                first, stop = segment.causal
                last = torch.arange(stop - len(rows), stop)[:, None]
                rows |= (place >= first) & (place <= last)
                for a, b in segment.shared:
                    rows[:, a:b] = True
            self._biases[segments] = torch.zeros(mask.shape, dtype=like.dtype).masked_fill_(~mask, -inf).to(like.device)
        return self._biases[segments]

    def narrowed(self, rows: Sequence[int] | Tensor) -> StreamLayout:
        """The same layout for only the packed queries `rows`, ascending, packed in that order."""
        streams, at = [], 0
        wanted = iter([*rows, -1])
        row = next(wanted)
        for stream in self.streams:
            segments = []
            for segment in stream.segments:
                while segment.start <= row < segment.stop:
                    segments.append(segment.part(row, at))
                    row, at = next(wanted), at + 1
            if segments:
                streams.append(PagedKeys(stream.pages, stream.offset, tuple(segments)))
        return StreamLayout(self.pool, tuple(streams), self.kernels)

    @cached_property
    def planned_singles(self) -> Singles | None:
        """Where every segment is one query; on the CPU."""
        if any(segment.stop - segment.start > 1 for stream in self.streams for segment in stream.segments):
            return None
        return _singles(self.streams)

    @cached_property
    def singles(self) -> Singles | None:
        """Where every segment is one query; computed once for all layers."""
        if self.planned_singles is None:
            return None
        pages, parts, bounds = all_to_device(self.planned_singles, self.pool.shape.device)
        return pages, parts, bounds

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """The kernel calls; computed once for all layers."""
        return tuple(call.on(self.pool.shape.device) for call in self.planned_calls)

    @cached_property
    def planned_calls(self) -> tuple[Call, ...]:
        """The kernel calls, on the CPU."""
        groups: list[list[PagedKeys]] = []
        size = 0
        for stream in self.streams:
            if not groups or size + len(stream.pages) * PAGE > GATHERED:
                groups.append([])
                size = 0
            groups[-1].append(stream)
            size += len(stream.pages) * PAGE
        return tuple(_call(group) for group in groups)


@dataclass(frozen=True, slots=True)
class FixedLayout:
    """A layout of fixed size for kernels, whose tensors are overwritten from step to step. `last`: that of the wanted
    queries."""

    pool: KVPool
    kernels: Kernels
    calls: tuple[Call, ...]
    singles: Singles | None
    last: FixedLayout | None = None

    def narrowed(self, _: Sequence[int] | Tensor) -> FixedLayout:
        assert self.last is not None
        return self.last


def _singles(streams: Sequence[PagedKeys]) -> Singles:
    """For single queries: all pages, the parts of keys that each query sees, and the index of each query's first part."""
    parts: list[tuple[int, int, int, int]] = []
    bounds = [0]
    table = 0
    for stream in streams:
        for segment in stream.segments:
            for a, b in (segment.causal, *segment.shared):
                for first in range(a, b, PART):
                    stop = min(first + PART, b)
                    parts.append((segment.start, stream.offset + first, stream.offset + stop, table))
            bounds.append(len(parts))
        table += len(stream.pages)
    return (
        torch.from_numpy(np.concatenate([stream.pages for stream in streams])),
        torch.tensor(parts, dtype=torch.int32),
        torch.tensor(bounds, dtype=torch.int32),
    )


def _call(streams: Sequence[PagedKeys]) -> Call:
    begin = streams[0].segments[0].start
    causal: list[tuple[int, int, int]] = []
    shared: dict[int, list[tuple[int, int, int]]] = {}  # by the index of the range in a segment's
    rows: dict[int, list[int]] = {}
    base = 0
    for stream in streams:
        first = base + stream.offset
        for segment in stream.segments:
            queries = segment.stop - segment.start
            causal.append((queries, first + segment.causal[0], first + segment.causal[1]))
            for number, (a, b) in enumerate(segment.shared):
                parts = shared.setdefault(number, [])
                if parts and parts[-1][1:] == (first + a, first + b):  # neighbours with the same keys: one sequence
                    parts[-1] = (parts[-1][0] + queries, first + a, first + b)
                else:
                    parts.append((queries, first + a, first + b))
                rows.setdefault(number, []).extend(range(segment.start - begin, segment.stop - begin))
        base += len(stream.pages) * PAGE
    return Call(
        begin,
        streams[-1].segments[-1].stop,
        torch.from_numpy(np.concatenate([stream.pages for stream in streams])),
        sequences_of(causal),
        tuple((torch.tensor(rows[number]), sequences_of(parts)) for number, parts in shared.items()),
    )


_layout: ContextVar[FrameLayout | StreamLayout | FixedLayout] = ContextVar("codecflow_layout")


@contextmanager
def attending(layout: FrameLayout | StreamLayout | FixedLayout) -> Iterator[None]:
    """Model calls inside this block attend according to `layout`."""
    token = _layout.set(layout)
    try:
        with sdpa_kernel(_BACKENDS):
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

    For text, the cache has already written `key` and `value` to the pool, and they are read from there.
    Raises LookupError outside `attending`, as there is no layout.
    """
    layout = _layout.get()
    rows = query[0].transpose(0, 1)
    if isinstance(layout, FrameLayout):
        keys, values = (x[0].transpose(0, 1) for x in (key, value))
        return within_frames(rows, keys, values, layout, scaling)[None], None
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # an int on every text attention module
    return within_streams(rows, layout, layer, scaling)[None], None


AttentionInterface.register(NAME, packed_attention)


def within_frames(query: Tensor, key: Tensor, value: Tensor, layout: FrameLayout | FixedFrames, scale: float) -> Tensor:
    """`query`, `key`, `value`: (patches, heads, head_dim); returns the same shape."""
    if isinstance(layout, FixedFrames):
        return layout.kernel(query, key, value, layout.sequences, False, scale)[0]
    lengths = layout.lengths
    heads, head_dim = query.shape[1:]
    if len(set(lengths)) == 1:  # whole frames: a regular batch
        q, k, v = (x.reshape(len(lengths), lengths[0], heads, head_dim).transpose(1, 2) for x in (query, key, value))
        return scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(0, 1)
    kernel = choose_kernels(query.device, query.dtype, heads, heads, head_dim).ragged
    if kernel is not None:
        return kernel(query, key, value, layout.sequences(query.device), False, scale)[0]
    bounds = list(itertools.accumulate(lengths))[:-1]
    parts = zip(*(x.transpose(0, 1)[None].tensor_split(bounds, dim=2) for x in (query, key, value)), strict=True)
    found = torch.cat([scaled_dot_product_attention(q, k, v, scale=scale) for q, k, v in parts], dim=2)
    return found[0].transpose(0, 1)


def within_streams(query: Tensor, layout: StreamLayout | FixedLayout, layer: int, scale: float) -> Tensor:
    """`query`: (tokens, heads, head_dim) of all streams; returns the same shape. Keys and values are the pool's.

    The only place where a step's plan becomes attention.
    """
    if layout.kernels.single is not None and layout.singles is not None:
        pool = layout.pool
        return layout.kernels.single(
            query, pool.keys.layer(layer), pool.values.layer(layer), *layout.singles, PAGE, scale
        )
    if layout.kernels.ragged is not None:
        return _by_kernel(query, layout, layout.kernels.ragged, layer, scale)
    assert isinstance(layout, StreamLayout), "a layout of fixed size is for kernels"
    parts = []
    for stream in layout.streams:
        keys, values = layout.pool.gather(layer, to_device(stream.pages, query.device))
        for segments in _together(stream.segments):
            stop = max(max(b for _, b in (s.causal, *s.shared)) for s in segments)
            q = query[segments[0].start : segments[-1].stop].transpose(0, 1)[None]
            k, v = (x[stream.offset : stream.offset + stop].transpose(0, 1)[None] for x in (keys, values))
            parts.append(_by_sdpa(q, k, v, segments, layout, scale)[0].transpose(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_kernel(query: Tensor, layout: StreamLayout | FixedLayout, kernel: Kernel, layer: int, scale: float) -> Tensor:
    parts = []
    for call in layout.calls:
        keys, values = layout.pool.gather(layer, call.pages)
        own = query[call.start : call.stop]
        output, logs = kernel(own, keys, values, call.causal, True, scale)
        for rows, sequences in call.shared:
            further, further_logs = kernel(own[rows], keys, values, sequences, False, scale)
            together = torch.logaddexp(logs[:, rows], further_logs)
            first, second = (
                (one - together).exp().t()[:, :, None] for one in (logs[:, rows], further_logs)
            )  # (rows, heads, 1)
            output[rows] = (output[rows] * first + further * second).to(output.dtype)
            logs[:, rows] = together
        parts.append(output)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _together(segments: Sequence[Segment]) -> Iterator[tuple[Segment, ...]]:
    """Groups a stream's segments by call: causal segments separately while they are few, all others under one mask."""
    plain = list(itertools.takewhile(lambda segment: not segment.shared and not segment.causal[0], segments))
    rest = segments[len(plain) :]
    if len(plain) > _CAUSAL_RUNS:
        yield tuple(plain[:-1])
        plain = plain[-1:]
    yield from ((segment,) for segment in plain)
    if rest:
        yield tuple(rest)


def _by_sdpa(
    q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], layout: StreamLayout, scale: float
) -> Tensor:
    """`q`: (1, heads, queries, head_dim); `k`, `v`: (1, kv_heads, keys, head_dim). Returns the shape of `q`."""
    (heads, queries, head_dim), (kv_heads, keys) = q.shape[1:], k.shape[1:3]
    causal = len(segments) == 1 and not segments[0].shared and not segments[0].causal[0]
    if causal and queries == 1:  # heads that share keys become queries of one head, so keys are read once
        folded = scaled_dot_product_attention(q.reshape(1, kv_heads, -1, head_dim), k, v, scale=scale)
        return folded.reshape(1, heads, 1, head_dim)
    grouped = heads != kv_heads
    if (
        grouped and q.is_cuda and not (causal and q.dtype != torch.float32)
    ):  # only flash kernels support grouped heads there
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        grouped = False
    if causal and queries == keys:
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    if causal and q.is_cuda:
        bias: Any = causal_lower_right(queries, keys)
    else:
        bias = layout.bias(segments if not causal else (_moved(segments[0]),), keys, q)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale, enable_gqa=grouped)


def _moved(segment: Segment) -> Segment:
    """The segment with queries renumbered from 0: streams with equally many queries and keys share a mask."""
    return Segment(0, segment.stop - segment.start, segment.causal)
