"""The decoder's layers from CUDA graphs (graphs.py).

What the rows of padding compute is written to a page of the pool that no stream uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from codecflow.vlm.attention import Call, FixedLayout, Singles, StreamLayout
from codecflow.vlm.decoder import Decoder, Packed
from codecflow.vlm.families.base import Family
from codecflow.vlm.graphs import GraphCache, coarse, empty_sequences, fill_sequences, pad, power, stepped
from codecflow.vlm.kv_pool import PAGE, KVPool, PoolCache
from codecflow.vlm.transfer import to_device

_MOST_TOKENS = 4096
"""A small model's forward over more tokens takes a GPU longer than its launches take the host."""


@dataclass(frozen=True, slots=True)
class _Forward:
    """A forward that a graph can hold. `call`: of all layers but the last, or None where every query is alone. `singles`: of
    the last layer, or of all; None where nothing is wanted."""

    packed: Packed
    cos: Tensor
    sin: Tensor
    call: Call | None
    singles: Singles | None

    @property
    def tokens(self) -> int:
        return len(self.packed.embeds)

    @property
    def wanted(self) -> int:
        return self.tokens if self.packed.wanted is None else len(self.packed.wanted)


class Bucket(NamedTuple):
    """Sizes to which a forward is padded. `sequences`, `longest`, `pages`: of the causal call; `further`: queries that see
    further keys, their sequences and the longest of these, or zeros. `wanted`, `parts`: of the last layer's queries, or of
    all where every query is `alone`."""

    tokens: int
    pages: int
    sequences: int
    longest: int
    further: tuple[int, int, int]
    wanted: int
    parts: int

    @property
    def alone(self) -> bool:
        return not self.sequences

    @staticmethod
    def of(given: _Forward) -> Bucket:
        tokens = stepped(given.tokens + 1)  # at least one row of padding
        if given.call is None:
            assert given.singles is not None
            pages, seen, _ = given.singles
            return Bucket(tokens, coarse(len(pages)), 0, 0, (0, 0, 0), 0, power(len(seen) + tokens, 16))
        call, further = given.call, (0, 0, 0)
        for rows, keys in call.shared:
            queries = power(len(rows) + 1, 32)
            most = power(max(keys.max_queries, queries - len(rows)), 16)
            further = queries, power(len(keys.lengths) + 1, 4), most
        longest = power(max(call.causal.max_queries, tokens - given.tokens), 16)
        sequences = power(len(call.causal.lengths) + 1, 8)
        wanted = parts = 0
        if given.singles is not None:
            wanted = power(given.wanted + 1, 4)
            parts = power(len(given.singles[1]) + wanted, 16)
        count = coarse(max(len(call.pages), -(-tokens // PAGE)))
        return Bucket(tokens, count, sequences, longest, further, wanted, parts)


class _Buffers:
    """The inputs of one bucket's forward. `packed` reads from tensors that `fill` overwrites."""

    def __init__(self, bucket: Bucket, like: Packed, pool: KVPool, rows: dict[str, Tensor]) -> None:
        layout, count = like.layout, bucket.tokens
        device = like.embeds.device
        self.embeds, self.cos, self.sin = (rows[name][:count] for name in ("embeds", "cos", "sin"))
        self.visual, self.features = rows["visual"][:count], rows["features"][:count]
        self.slots = torch.empty(count, dtype=torch.int64, device=device)
        self.pages = torch.empty(bucket.pages, dtype=torch.int64, device=device)
        self.wanted = torch.empty(bucket.wanted, dtype=torch.int64, device=device)
        self.last_pages = torch.empty(bucket.pages, dtype=torch.int64, device=device)
        self.parts = torch.empty(bucket.parts, 4, dtype=torch.int32, device=device)
        queries = count if bucket.alone else bucket.wanted
        self.bounds = torch.empty(queries + 1, dtype=torch.int32, device=device)
        self.causal = empty_sequences(bucket.sequences, bucket.longest, bucket.pages * PAGE, device)
        further, sequences, longest = bucket.further
        self.rows = torch.empty(further, dtype=torch.int64, device=device)
        self.seen = empty_sequences(sequences, longest, bucket.pages * PAGE, device)
        singles: Singles = (self.last_pages, self.parts, self.bounds)
        last = FixedLayout(pool, layout.kernels, (), singles)
        shared = ((self.rows, self.seen),) if further else ()
        call = Call(0, count, self.pages, self.causal, shared)
        fixed = last if bucket.alone else FixedLayout(pool, layout.kernels, (call,), None, last)
        self.packed = Packed(
            self.embeds,
            like.positions,
            self.visual,
            self.features,
            fixed,
            PoolCache(pool, self.slots),
            None if bucket.alone else self.wanted,
        )
        self._scratch = pool.scratch
        self._padding_slots = torch.arange(count, device=device) % PAGE + self._scratch * PAGE

    def fill(self, given: _Forward) -> None:
        """Copies one forward's inputs. Rows of padding keep earlier values: all that matters is that they are finite."""
        packed, count = given.packed, given.tokens
        for own, values in ((self.embeds, packed.embeds), (self.cos, given.cos), (self.sin, given.sin)):
            own[:count].copy_(values)
        self.slots.copy_(self._padding_slots)
        self.slots[:count].copy_(packed.cache.slots)
        if len(self.features):  # added to rows: those of padding are zero
            self.features.zero_()
            self.features[: len(packed.features), : packed.features.shape[1]].copy_(packed.features)
            pad(self.visual, packed.visual, count)
        if given.call is not None:
            pad(self.pages, given.call.pages, self._scratch)
            fill_sequences(self.causal, given.call.causal, len(self.embeds))
            for rows, seen in given.call.shared:
                pad(self.rows, rows, count)
                fill_sequences(self.seen, seen, len(self.rows))
        if packed.wanted is not None:
            wanted = torch.as_tensor(packed.wanted, dtype=torch.int64)
            pad(self.wanted, to_device(wanted, self.wanted.device), count)
        if given.singles is not None:
            self._fill_singles(given.singles, given.wanted)

    def _fill_singles(self, given: Singles, queries: int) -> None:
        """Each query of padding sees the first key of the first page."""
        pages, parts, bounds = given
        pad(self.last_pages, pages, self._scratch)
        count, padding = len(parts), len(self.bounds) - 1 - queries
        first = torch.zeros(padding, 4, dtype=torch.int32)
        first[:, 0], first[:, 2] = torch.arange(queries, queries + padding), 1
        self.parts[:count].copy_(parts)
        self.parts[count : count + padding].copy_(to_device(first, self.parts.device))
        self.parts[count + padding :].zero_()
        self.bounds[: queries + 1].copy_(bounds)
        begun = torch.arange(count, count + padding + 1, dtype=torch.int32)
        self.bounds[queries:].copy_(to_device(begun, self.bounds.device))


class DecoderGraphs:
    """Runs a family's decoder on one engine's pool, from graphs where that is faster.

    Larger forwards, and those with several kernel calls per layer, run launch by launch.
    """

    def __init__(self, family: Family, decoder: Decoder, pool: KVPool) -> None:
        self._decoder, self._pool = decoder, pool
        self._narrows, self._levels = family.narrows, family.levels
        self.cache: GraphCache[Bucket, _Buffers] = GraphCache(family.device, family.text.parameters(), _MOST_TOKENS)
        self._rows: dict[str, Tensor] = {}

    @staticmethod
    def of(family: Family, pool: KVPool) -> DecoderGraphs | None:
        """None where kernels or the decoder are missing: attention by scaled_dot_product_attention depends on sizes."""
        if family.decoder is None or family.kernels.ragged is None or family.kernels.single is None:
            return None
        return DecoderGraphs(family, family.decoder, pool)

    def __call__(self, packed: Packed, cos: Tensor, sin: Tensor) -> Tensor:
        """As `Decoder.__call__`."""
        given = self._forward(packed, cos, sin)
        bucket = None if given is None else Bucket.of(given)
        graph = bucket and self.cache.find(
            bucket, lambda: _Buffers(bucket, packed, self._pool, self._inputs(packed, cos))
        )
        if given is None or graph is None:
            return self._decoder(packed, cos, sin)
        own = graph.buffers
        own.fill(given)
        hidden = self.cache.run(graph, lambda: self._decoder(own.packed, own.cos, own.sin))
        return hidden[: given.wanted].clone()

    def _forward(self, packed: Packed, cos: Tensor, sin: Tensor) -> _Forward | None:
        """None if a graph cannot hold it, or if it is large enough for a GPU to be busy."""
        layout, wanted = packed.layout, packed.wanted
        if len(packed.embeds) >= self.cache.limit or type(packed.cache) is not PoolCache:
            return None
        assert isinstance(layout, StreamLayout)
        if layout.singles is not None:
            return _Forward(packed, cos, sin, None, layout.singles) if wanted is None else None
        if wanted is None or not self._narrows or len(layout.calls) != 1 or len(layout.calls[0].shared) > 1:
            return None
        last = layout.narrowed(wanted).singles if len(wanted) else None
        return _Forward(packed, cos, sin, layout.calls[0], last)

    def _inputs(self, packed: Packed, cos: Tensor) -> dict[str, Tensor]:
        """Buffers of the largest bucket, of which all buckets use the first rows. Finite from the start."""
        if not self._rows:
            rows = stepped(self.cache.limit + 1)
            hidden = packed.embeds.shape[1]
            self._rows = {
                "embeds": packed.embeds.new_zeros(rows, hidden),
                "cos": cos.new_zeros(rows, cos.shape[1]),
                "sin": cos.new_zeros(rows, cos.shape[1]),
                "visual": packed.visual.new_zeros(rows),
                "features": packed.features.new_zeros(rows if self._levels > 1 else 0, self._levels, hidden),
            }
        return self._rows
