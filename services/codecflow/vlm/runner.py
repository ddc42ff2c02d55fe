"""One packed forward of the text model over tokens of many streams: its inputs, write slots and attention layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codecflow.vlm.attention import PagedKeys, Segment, StreamLayout
from codecflow.vlm.decoder import Layers, Packed
from codecflow.vlm.families.base import Family
from codecflow.vlm.flops import NOTHING, Work, causal_pairs
from codecflow.vlm.kv_pool import PAGE, KVPool, PoolCache
from codecflow.vlm.transfer import all_to_device

if TYPE_CHECKING:
    from codecflow.vlm.window import StreamWindow


Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens for consecutive slots. Bookkeeping is on the CPU, features on the model's device.

    `ids`: (tokens,) int64, arbitrary where `visual`: (tokens,) bool. `positions`: (axes, tokens) int64. `features`: (visual
    tokens, levels, hidden), None when there are none.
    """

    slot: int
    ids: Ints
    visual: npt.NDArray[np.bool_]
    positions: Ints
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
        """Text at consecutive positions, the same on every axis, preceded by `closing` features (tokens, hidden)."""
        lead = 0 if closing is None else len(closing)
        count = lead + len(ids)
        return Run(
            slot,
            np.array([0] * lead + list(ids), dtype=np.int64),
            np.arange(count) < lead,
            np.broadcast_to(np.arange(position, position + count), (axes, count)),
            None if closing is None else closing[:, None],
        )


@dataclass(slots=True)
class Branch:
    """A continuation of a stream's window that other branches do not see: a question, an answer, a label.

    `slot`: its first own slot; `length`: number of tokens there; `parents`: slot ranges of the branches that it continues;
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


@dataclass(slots=True)
class _Reading:
    """One stream's part of a pack. Slots are the window's; `stop`: end of the slots that are read."""

    window: StreamWindow
    stop: int = 0
    segments: list[Segment] = field(default_factory=list)  # with slots relative to the window's start


class Pack:
    """Collects streams' tokens, then runs them in one forward. All tokens of a stream must be added consecutively.

    `layers`: how the decoder's layers are computed, if not launch by launch (graphs.py).
    """

    def __init__(self, family: Family, pool: KVPool, layers: Layers | None = None) -> None:
        self.family = family
        self.pool = pool
        self.layers = layers
        self.tokens = 0
        self._runs: list[Run] = []
        self._written: list[Ints] = []  # slots of the pool, run by run
        self._readings: list[_Reading] = []

    def trunk(self, window: StreamWindow, runs: Sequence[Run]) -> Work:
        """Tokens of prefix and frames, ascending: each sees the window's slots up to its own. Their hidden states are not
        needed."""
        first, pairs = self.tokens, 0
        for a, b in _joined(runs):
            self._attend(window, b - a, (window.start, b))
            pairs += (b - a) * (a - window.start) + causal_pairs(b - a, b - a)
        self._write(window, runs)
        count = self.tokens - first
        return Work(count, pairs) if self.family.narrows else Work(count, pairs, count, pairs)

    def branches(self, window: StreamWindow, grown: Sequence[tuple[Branch, Run]], *, last_only: bool = False) -> Work:
        """New tokens of branches: each sees the window, its branch's parents, and its branch up to itself. `last_only`: only
        the hidden state of each branch's last token is needed."""
        start, shared = window.start, window.slots
        work = NOTHING
        for branch, run in grown:
            count = len(run)
            seen = [(start, shared), *branch.parents]
            if len(grown) == 1 and branch.slot == shared and not branch.parents:  # a direct continuation of the window
                self._attend(window, count, (start, run.stop))
            else:
                self._attend(window, count, (branch.slot, run.stop), seen)
            before = run.slot - branch.slot + sum(b - a for a, b in seen)
            pairs = count * before + causal_pairs(count, count)
            narrow = last_only and self.family.narrows
            work += Work(count, pairs, 1, before + count) if narrow else Work(count, pairs, count, pairs)
        self._write(window, [run for _, run in grown])
        return work

    def _write(self, window: StreamWindow, runs: Sequence[Run]) -> None:
        self._runs += runs
        self._written += [window.located(np.arange(run.slot, run.stop)) for run in runs]

    def _attend(
        self,
        window: StreamWindow,
        queries: int,
        causal: tuple[int, int],
        shared: Sequence[tuple[int, int]] = (),
    ) -> None:
        """The next `queries` packed tokens are the last of the window's slots `causal`. Each sees those up to its own, and
        all of the slots `shared`."""
        if not self._readings or self._readings[-1].window is not window:
            self._readings.append(_Reading(window))
        reading, first = self._readings[-1], window.start
        own = causal[0] - first, causal[1] - first
        before = reading.segments[-1] if reading.segments else None
        if (
            before is not None
            and not shared
            and not before.shared
            and own == (before.causal[0], before.causal[1] + queries)
        ):  # continues a sequence
            reading.segments[-1] = Segment(before.start, before.stop + queries, own)
        else:
            seen = tuple((a - first, b - first) for a, b in shared)
            reading.segments.append(Segment(self.tokens, self.tokens + queries, own, seen))
        reading.stop = max(reading.stop, causal[1], *(b for _, b in shared))
        self.tokens += queries

    def run(self, cache: PoolCache | None = None, wanted: Sequence[int] | None = None) -> Tensor:
        """Hidden states (tokens, hidden) in the order in which tokens were added; with `wanted`, only of those packed
        indices, ascending. `cache`: replaces the one that writes to the pool."""
        family, runs = self.family, self._runs
        device = family.device
        slots = np.concatenate(self._written)
        host = (
            np.flatnonzero(np.concatenate([run.visual for run in runs])),
            np.concatenate([run.ids for run in runs]),
            np.concatenate([run.positions for run in runs], axis=1),
            slots,
        )
        index, ids, positions, written = all_to_device(host, device)
        embeds = family.embed(ids)
        parts = [run.features for run in runs if run.features is not None and len(run.features)]
        features = torch.cat(_levelled(parts)) if parts else embeds.new_zeros(0, 1, embeds.shape[1])
        embeds.index_copy_(0, index, features[:, 0].to(embeds.dtype))
        if cache is None:  # an empty cache is falsy
            cache = PoolCache(self.pool, written)
        packed = Packed(embeds, positions, index, features, self._layout(), cache, slots, wanted)
        return family.run_text(packed, self.layers)

    def _layout(self) -> StreamLayout:
        """The step's attention plan: the pages of each stream, in order, and the keys that each query reads."""
        keys = [
            PagedKeys(
                _pages_read(reading),
                reading.window.start % PAGE,
                tuple(reading.segments),
            )
            for reading in self._readings
        ]
        return StreamLayout(self.pool, tuple(keys), self.family.kernels)


def _pages_read(reading: _Reading) -> Ints:
    window = reading.window
    return np.asarray(window.pages[: -(-reading.stop // PAGE) - window.first_page], dtype=np.int64)


def _levelled(parts: list[Tensor]) -> list[Tensor]:
    """Closing features have a single level. Where other features have more levels, theirs are zero."""
    levels = max(part.shape[1] for part in parts)
    return [
        part if part.shape[1] == levels else torch.nn.functional.pad(part, (0, 0, 0, levels - part.shape[1]))
        for part in parts
    ]


def _joined(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """Slot ranges of `runs`, ascending, adjacent ones merged."""
    ranges: list[tuple[int, int]] = []
    for run in runs:
        if ranges and ranges[-1][1] == run.slot:
            ranges[-1] = (ranges[-1][0], run.stop)
        else:
            ranges.append((run.slot, run.stop))
    return ranges
