"""One packed forward of the text model over tokens of many streams: what goes in, where it is written, what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codecflow.vlm.attention import PagedKeys, Segment, StreamLayout, attending
from codecflow.vlm.families.base import Family
from codecflow.vlm.kv_pool import PAGE, KVPool, PoolCache

if TYPE_CHECKING:
    from codecflow.vlm.window import StreamWindow

_CAUSAL_RUNS = 64  # above this many, one masked attention is cheaper than one causal attention per run


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
    """What one stream had computed: tokens, and (query, key) pairs that see each other."""

    tokens: int = 0
    pairs: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.pairs + other.pairs)


NOTHING = Work()


@dataclass(slots=True)
class _Reading:
    """One stream's part of a pack. Slots are the window's; `stop`: behind the last one that is read."""

    window: StreamWindow
    stop: int = 0
    segments: list[Segment] = field(default_factory=list)  # with slots relative to the window's start


class Pack:
    """Collects streams' tokens, then runs them in one forward. Tokens of one stream are added one after another."""

    def __init__(self, family: Family, pool: KVPool) -> None:
        self.family = family
        self.pool = pool
        self.tokens = 0
        self._runs: list[Run] = []
        self._written: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []  # slots of the pool, run by run
        self._readings: list[_Reading] = []

    def trunk(self, window: StreamWindow, runs: Sequence[Run]) -> Work:
        """Tokens of prefix and frames, ascending: each sees the window's slots up to its own."""
        joined = _joined(runs)
        first, pairs = self.tokens, 0
        scattered = joined[:-1] if len(joined) > _CAUSAL_RUNS else []
        if scattered:
            slots = torch.cat([torch.arange(a, b) for a, b in scattered])
            mask = torch.arange(window.start, scattered[-1][1]) <= slots[:, None]
            self._attend(window, len(slots), scattered[-1][1], mask)
            pairs = int(mask.sum())
        for a, b in joined[len(scattered) :]:
            self._attend(window, b - a, b)
            pairs += (b - a) * (a - window.start) + (b - a) * (b - a + 1) // 2
        self._write(window, runs)
        return Work(self.tokens - first, pairs)

    def branches(self, window: StreamWindow, grown: Sequence[tuple[Branch, Run]]) -> Work:
        """New tokens of branches: each sees the window, its branch's parents, and its branch up to itself."""
        start, shared = window.start, window.slots
        count = sum(len(run) for _, run in grown)
        branch, run = grown[0]
        if len(grown) == 1 and branch.slot == shared and not branch.parents:  # the window goes on in it
            self._attend(window, count, run.stop)
            pairs = count * (run.slot - start) + count * (count + 1) // 2
        else:
            stop = max(run.stop for _, run in grown)
            mask = torch.zeros(count, stop - start, dtype=torch.bool)
            mask[:, : shared - start] = True
            row = 0
            for branch, run in grown:
                rows = slice(row, row + len(run))
                for a, b in branch.parents:
                    mask[rows, a - start : b - start] = True
                own = torch.arange(branch.slot, stop) <= torch.arange(run.slot, run.stop)[:, None]
                mask[rows, branch.slot - start :] |= own
                row += len(run)
            self._attend(window, count, stop, mask)
            pairs = int(mask.sum())
        self._write(window, [run for _, run in grown])
        return Work(count, pairs)

    def _write(self, window: StreamWindow, runs: Sequence[Run]) -> None:
        self._runs += runs
        self._written += [window.located(np.arange(run.slot, run.stop)) for run in runs]

    def _attend(self, window: StreamWindow, queries: int, stop: int, mask: Tensor | None = None) -> None:
        """The next `queries` packed tokens see the window's slots before `stop`: those of `mask`, or each up to its own."""
        if not self._readings or self._readings[-1].window is not window:
            self._readings.append(_Reading(window))
        reading = self._readings[-1]
        before = reading.segments[-1] if reading.segments else None
        if (
            mask is None
            and before is not None
            and before.mask is None
            and before.kv_stop + queries == stop - window.start
        ):
            reading.segments[-1] = Segment(
                before.start, before.stop + queries, stop - window.start
            )  # one sequence goes on
        else:
            mask = None if mask is None else mask.to(self.family.device)
            reading.segments.append(Segment(self.tokens, self.tokens + queries, stop - window.start, mask))
        reading.stop = max(reading.stop, stop)
        self.tokens += queries

    def run(self, cache: PoolCache | None = None) -> Tensor:
        """Hidden states (tokens, hidden) in the order in which tokens were added. `cache`: in place of one that writes."""
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
            cache = PoolCache(self.pool, torch.from_numpy(np.concatenate(self._written)).to(device))
        with attending(self._layout()):
            return family.run_text(embeds, positions, visual, features, cache)

    def _layout(self) -> StreamLayout:
        """The step's plan for attention: of each stream its pages, in order, and who reads how much of them."""
        read = [_pages_read(reading) for reading in self._readings]
        tables = torch.from_numpy(np.concatenate(read)).to(self.family.device)
        keys = []
        for reading, pages in zip(self._readings, torch.split(tables, [len(one) for one in read]), strict=True):
            offset = reading.window.start % PAGE
            length = reading.stop - reading.window.start
            keys.append(PagedKeys(pages, offset, length, tuple(reading.segments)))
        return StreamLayout(self.pool, tuple(keys))


def _pages_read(reading: _Reading) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    window = reading.window
    return np.asarray(window.pages[: -(-reading.stop // PAGE) - window.first_page], dtype=np.int64)


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
