"""The decoder's layers from CUDA graphs (graphs.py).

What the rows of padding compute is written to a page of the pool that no stream uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from codecflow.vlm.attention import Call, FixedLayout, Singles, StreamLayout
from codecflow.vlm.decoder import Decoder, Packed
from codecflow.vlm.families.base import Family
from codecflow.vlm.graphs import (
    GraphCache,
    Shapes,
    coarse,
    fill_sequences,
    fixed_sequences,
    pad,
    power,
    sequence_shapes,
    stepped,
)
from codecflow.vlm.kv_pool import PAGE, KVPool, PoolCache
from codecflow.vlm.transfer import Array, FixedInputs

_MOST_TOKENS = 4096
"""A small model's forward over more tokens takes a GPU longer than its launches take the host."""


@dataclass(frozen=True, slots=True)
class _Forward:
    """A forward that a graph can hold. `call`: of all layers but the last, or None where every query is alone. `singles`: of
    the last layer, or of all; None where nothing is wanted. Both are plans on the CPU."""

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
        self.embeds, self.cos, self.sin = (rows[name][:count] for name in ("embeds", "cos", "sin"))
        self.visual, self.features = rows["visual"][:count], rows["features"][:count]
        further, sequences, longest = bucket.further
        queries, keys = count if bucket.alone else bucket.wanted, bucket.pages * PAGE
        shapes: Shapes = {
            "slots": ((count,), np.int64),
            "pages": ((bucket.pages,), np.int64),
            "last pages": ((bucket.pages,), np.int64),
            "wanted": ((bucket.wanted,), np.int64),
            "parts": ((bucket.parts, 4), np.int32),
            "bounds": ((queries + 1,), np.int32),
            "rows": ((further,), np.int64),
            **sequence_shapes("causal", bucket.sequences),
            **sequence_shapes("further", sequences),
        }
        self._scratch = pool.scratch
        self._padding_slots = np.arange(count) % PAGE + self._scratch * PAGE
        self._inputs = FixedInputs(shapes, like.embeds.device)
        own = self._inputs.tensors
        last = FixedLayout(pool, layout.kernels, (), (own["last pages"], own["parts"], own["bounds"]))
        shared = ((own["rows"], fixed_sequences(own, "further", longest, keys)),) if further else ()
        call = Call(0, count, own["pages"], fixed_sequences(own, "causal", bucket.longest, keys), shared)
        fixed = last if bucket.alone else FixedLayout(pool, layout.kernels, (call,), None, last)
        self.packed = Packed(
            self.embeds,
            like.positions,
            self.visual,
            self.features,
            fixed,
            PoolCache(pool, own["slots"]),
            self._padding_slots,
            None if bucket.alone else own["wanted"],
        )

    def fill(self, given: _Forward) -> None:
        """Copies one forward's inputs. Rows of padding keep earlier values: all that matters is that they are finite."""
        packed, count = given.packed, given.tokens
        for own, values in ((self.embeds, packed.embeds), (self.cos, given.cos), (self.sin, given.sin)):
            own[:count].copy_(values)
        if len(self.features):  # added to rows: those of padding are zero
            self.features.zero_()
            self.features[: len(packed.features), : packed.features.shape[1]].copy_(packed.features)
            self.visual.fill_(count)
            self.visual[: len(packed.visual)].copy_(packed.visual)
        with self._inputs.written() as into:
            self._fill(into, given)

    def _fill(self, into: Mapping[str, Array], given: _Forward) -> None:
        count = given.tokens
        into["slots"][:] = self._padding_slots
        into["slots"][:count] = given.packed.slots
        if given.packed.wanted is not None:
            pad(into["wanted"], given.packed.wanted, count)
        if given.call is not None:
            pad(into["pages"], given.call.pages, self._scratch)
            fill_sequences(into, "causal", given.call.causal, len(into["slots"]))
            for rows, seen in given.call.shared:
                pad(into["rows"], rows, count)
                fill_sequences(into, "further", seen, len(into["rows"]))
        if given.singles is not None:
            self._fill_singles(into, given.singles, given.wanted)

    def _fill_singles(self, into: Mapping[str, Array], given: Singles, queries: int) -> None:
        """Each query of padding sees the first key of the first page."""
        pages, parts, bounds = given
        pad(into["last pages"], pages, self._scratch)
        count, padding = len(parts), len(into["bounds"]) - 1 - queries
        pad(into["parts"], parts, 0)
        further = into["parts"][count : count + padding]
        further[:, 0], further[:, 2] = np.arange(queries, queries + padding), 1
        into["bounds"][: queries + 1] = bounds
        into["bounds"][queries:] = np.arange(count, count + padding + 1)


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
        if layout.planned_singles is not None:
            return _Forward(packed, cos, sin, None, layout.planned_singles) if wanted is None else None
        if wanted is None or not self._narrows or len(layout.planned_calls) != 1:
            return None
        (call,) = layout.planned_calls
        if len(call.shared) > 1:
            return None
        return _Forward(packed, cos, sin, call, layout.narrowed(wanted).planned_singles if len(wanted) else None)

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
