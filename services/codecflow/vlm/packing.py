"""One packed forward of the text model over tokens of many streams: what goes in, where it is written, what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codecflow.vlm.attention import Segment, StreamLayout, attending
from codecflow.vlm.cache import PackedCache, StreamBuffers, Write
from codecflow.vlm.families.base import Family

_SLICED_WRITES = 8  # above this many runs of one stream, one indexed write a layer is cheaper than many slices
_CAUSAL_RUNS = 64  # above this many, one masked attention is cheaper than one causal attention a run


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens for consecutive slots. Bookkeeping lies on the CPU, features on the model's device.

    `ids`: (tokens,) int64, anything where `visual`: (tokens,) bool. `positions`: (axes, tokens) int64. `features`: (visual
    tokens, levels, hidden), None when there are none.
    """

    slot: int
    ids: Tensor
    visual: Tensor
    positions: Tensor
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def stop(self) -> int:
        return self.slot + len(self)

    def part(self, start: int, stop: int) -> Run:
        """Its tokens [start, stop)."""
        features = self.features
        if features is not None:
            before = int(self.visual[:start].sum())
            features = features[before : before + int(self.visual[start:stop].sum())]
        visual, positions = self.visual[start:stop], self.positions[:, start:stop]
        return Run(self.slot + start, self.ids[start:stop], visual, positions, features)

    @staticmethod
    def of_text(slot: int, ids: Sequence[int], position: int, axes: int, closing: Tensor | None = None) -> Run:
        """Text at consecutive positions, the same on every axis; `closing` features (tokens, hidden) go before it."""
        lead = 0 if closing is None else len(closing)
        count = lead + len(ids)
        return Run(
            slot,
            torch.tensor([0] * lead + list(ids), dtype=torch.int64),
            torch.arange(count) < lead,
            (torch.arange(count) + position).expand(axes, -1),
            None if closing is None else closing[:, None],
        )


@dataclass(slots=True)
class Branch:
    """A continuation of a stream's window that other branches do not see: a question, an answer, a label.

    `slot`: its first own slot; `length`: tokens that it holds there; `parents`: slot ranges of branches that it continues;
    `position`: of its next token.
    """

    slot: int
    position: int
    length: int = 0
    parents: tuple[tuple[int, int], ...] = ()

    @property
    def own(self) -> tuple[int, int]:
        return self.slot, self.slot + self.length

    def advance(self, tokens: int) -> None:
        self.length += tokens
        self.position += tokens

    def fork(self, slot: int) -> Branch:
        return Branch(slot, self.position, 0, (*self.parents, self.own))


@dataclass(frozen=True, slots=True)
class Work:
    """What one stream had computed: tokens, and (query, key) pairs, those that see each other and those multiplied."""

    tokens: int = 0
    pairs: int = 0
    multiplied: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.pairs + other.pairs, self.multiplied + other.multiplied)


NOTHING = Work()


class Pack:
    """Collects streams' tokens, then runs them in one forward."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.tokens = 0
        self._runs: list[Run] = []
        self._writes: list[Write] = []
        self._segments: list[Segment] = []

    def trunk(self, buffers: StreamBuffers, start: int, runs: Sequence[Run]) -> Work:
        """Tokens of the live region that begins at slot `start`, ascending: each sees the slots from there to its own."""
        joined = _joined(runs)
        first = self.tokens
        indexed = len(joined) > _SLICED_WRITES
        if indexed:
            slots = torch.cat([torch.arange(a, b) for a, b in joined])
            self._write(Write(first, first + len(slots), buffers, slots.to(buffers.keys.device)))
        pairs = multiplied = 0
        at = first
        scattered = joined[:-1] if len(joined) > _CAUSAL_RUNS else []
        if scattered:
            slots = torch.cat([torch.arange(a, b) for a, b in scattered])
            stop = scattered[-1][1]
            mask = torch.arange(start, stop) <= slots[:, None]
            self._attend(at, at + len(slots), buffers, start, stop, mask)
            at += len(slots)
            pairs, multiplied = int(mask.sum()), mask.numel()
        for a, b in joined[len(scattered) :]:
            if not indexed:
                self._write(Write(at, at + b - a, buffers, a))
            self._attend(at, at + b - a, buffers, start, b)
            at += b - a
            pairs += (b - a) * (a - start) + (b - a) * (b - a + 1) // 2
            multiplied += (b - a) * (b - start)
        self._runs += runs
        self.tokens = at
        return Work(at - first, pairs, multiplied)

    def branches(self, buffers: StreamBuffers, start: int, shared: int, grown: Sequence[tuple[Branch, Run]]) -> Work:
        """New tokens of branches: each sees slots [start, shared), its branch's parents, and its branch up to itself."""
        stop = max(run.stop for _, run in grown)
        count = sum(len(run) for _, run in grown)
        mask = torch.zeros(count, stop - start, dtype=torch.bool)
        mask[:, : shared - start] = True
        row = 0
        for branch, run in grown:
            rows = slice(row, row + len(run))
            for a, b in branch.parents:
                mask[rows, a - start : b - start] = True
            own = torch.arange(branch.slot, stop) <= torch.arange(run.slot, run.stop)[:, None]
            mask[rows, branch.slot - start :] |= own
            self._write(Write(self.tokens + row, self.tokens + row + len(run), buffers, run.slot))
            row += len(run)
        self._attend(self.tokens, self.tokens + count, buffers, start, stop, None if _is_causal(mask) else mask)
        self._runs += [run for _, run in grown]
        self.tokens += count
        return Work(count, int(mask.sum()), mask.numel())

    def _write(self, write: Write) -> None:
        self._writes.append(write)

    def _attend(
        self, start: int, stop: int, buffers: StreamBuffers, kv_start: int, kv_stop: int, mask: Tensor | None = None
    ) -> None:
        mask = None if mask is None else mask.to(buffers.keys.device)
        self._segments.append(Segment(start, stop, buffers.keys, buffers.values, kv_start, kv_stop, mask))

    def run(self, cache: PackedCache | None = None) -> Tensor:
        """Hidden states (tokens, hidden) in the order in which tokens were added. `cache`: something else than writing."""
        family, runs = self.family, self._runs
        device = family.device
        ids = torch.cat([run.ids for run in runs]).to(device)
        visual = torch.cat([run.visual for run in runs]).to(device)
        positions = torch.cat([run.positions for run in runs], dim=1).to(device)
        embeds = family.embed(ids.masked_fill(visual, 0))
        parts = [run.features for run in runs if run.features is not None and len(run.features)]
        features = torch.cat(_levelled(parts)) if parts else embeds.new_zeros(0, 1, embeds.shape[1])
        embeds[visual] = features[:, 0].to(embeds.dtype)
        if cache is None:  # a cache is false when it is empty
            cache = PackedCache(self._writes)
        with attending(StreamLayout(tuple(self._segments))):
            return family.run_text(embeds, positions, visual, features, cache)


def _levelled(parts: list[Tensor]) -> list[Tensor]:
    """Closing features have one level only; where other features have more, nothing enters for them at the further ones."""
    levels = max(part.shape[1] for part in parts)
    return [
        part if part.shape[1] == levels else torch.nn.functional.pad(part, (0, 0, 0, levels - part.shape[1]))
        for part in parts
    ]


def _joined(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """Slot ranges of `runs`, ascending, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for run in runs:
        if ranges and ranges[-1][1] == run.slot:
            ranges[-1] = (ranges[-1][0], run.stop)
        else:
            ranges.append((run.slot, run.stop))
    return ranges


def _is_causal(mask: Tensor) -> bool:
    """Whether a mask is the lower-right causal one, for which kernels need no mask."""
    queries, slots = mask.shape
    return bool((mask == torch.ones_like(mask).tril(slots - queries)).all())
