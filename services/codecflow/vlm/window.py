"""One stream's sliding window: its frames, and where their keys and values are stored.

A window numbers its slots consecutively: prefix, background, frames oldest first, then room for questions. Its pages cover
those slots in order: slot `s` is on page `s // PAGE - first_page` of its list. When frames leave, whole pages before the
rest return to the pool at once. The remaining frames keep their slots and positions. Prefix and background are rewritten
directly before the oldest frame: the prefix from the copy that was computed at position 0, the background from the previous
places of its tokens. Thousands of keys never move, so rounding errors do not accumulate in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codecflow.vlm.background import Cells, outlived, placed
from codecflow.vlm.families.base import Family
from codecflow.vlm.kv_pool import PAGE, KVPool
from codecflow.vlm.moves import Moves, Prefix
from codecflow.vlm.runner import Ints, Run
from codecflow.vlm.work import Frame


@dataclass(slots=True)
class HeldFrame:
    """A frame in the window. A frame without kept tokens holds no tokens at all, but still counts as seen.

    `total`: tokens of the whole frame, `kept`: those that it holds, `text`: tokens of its tags. `slot`, `position`: of its
    first token. `positions`: (axes, tokens), relative to `position`; `span`: positions that it takes. `features`: (kept,
    levels, hidden) and `source`, the input frame: held only if the refresh policy needs them. `shape`: rows and columns of
    its token grid, `places`: (kept,) its cells in it, `lead`: number of tag tokens before them.
    """

    index: int
    total: int
    text: int
    anchor: bool = False
    kept: int = 0
    ids: Ints | None = None
    visual: npt.NDArray[np.bool_] | None = None
    positions: Ints | None = None
    span: int = 0
    features: Tensor | None = None
    source: Frame | None = None
    slot: int = 0
    position: int = 0
    fresh: bool = True  # computed in the current step
    shape: tuple[int, int] = (0, 0)
    places: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    lead: int = 0

    @staticmethod
    def of(family: Family, frame: Frame) -> HeldFrame:
        """The frame's tokens: the kept ones, between the tags of the family's video template. Does not process patches yet.

        Raises ValueError when the mask does not match the family's grid for this picture or there are no patches, ModelError
        when the family does not accept such a picture.
        """
        before, after = family.frame_text(frame.index, frame.time_s)
        held = HeldFrame(frame.index, frame.keep.size, len(before) + len(after), frame.anchor)
        if not frame.keep.any():
            return held
        if frame.patches is None:
            raise ValueError(f"frame {frame.index}: tokens are kept but there are no patches")
        width, height = frame.size
        grid = family.known_grid(width, height)
        if grid.tokens != frame.keep.size:
            raise ValueError(
                f"frame {frame.index}: a keep mask of {frame.keep.size} for {grid.tokens} tokens at {width}x{height}"
            )
        held.shape, held.places, held.lead = (grid.rows, grid.columns), np.flatnonzero(frame.keep), len(before)
        held.kept = len(held.places)
        held.positions, held.span = family.frame_positions(grid, held.places, len(before), len(after))
        held.ids = np.array([*before, *[0] * held.kept, *after], dtype=np.int64)
        held.visual = np.zeros(len(held.ids), bool)
        held.visual[len(before) : len(before) + held.kept] = True
        return held

    @property
    def tokens(self) -> int:
        return 0 if self.ids is None else len(self.ids)

    @property
    def held_bytes(self) -> int:
        return 0 if self.features is None else self.features.numel() * self.features.element_size()

    @property
    def cells(self) -> Cells:
        """Its visual tokens at their current slots."""
        slots = np.arange(self.slot + self.lead, self.slot + self.lead + self.kept)
        return Cells(self.shape, self.places, slots, np.full(self.kept, self.position + self.lead), self.features)

    def run(self) -> Run:
        assert self.ids is not None
        assert self.visual is not None
        assert self.positions is not None
        return Run(self.slot, self.ids, self.visual, self.positions + self.position, self.features)


@dataclass(frozen=True, slots=True)
class Slide:
    """The state of a window after its next move; computed before anything is changed.

    `stays`: frames that remain. `background`: its tokens at their current slots; `span`: positions that it takes. `moved`:
    tokens left or became background, so the rest has lost context. `start`, `slots`, `position`: as in StreamWindow,
    including new frames. `turn`: distance by which positions can be rebased. `pages`: number of pages, without room for
    questions.
    """

    stays: list[HeldFrame]
    background: Cells
    span: int
    moved: bool
    start: int
    slots: int
    position: int
    turn: int

    @property
    def pages(self) -> int:
        return pages_of(self.start, self.slots)


class StreamWindow:
    """See the module. `start`: slot of the prefix; `slots`: first slot after the frames; `position`: of the next token.

    `since`: first slot on the sampling grid from which frames were used, when earlier frames were lost; 0 otherwise.
    `keeps_background`: tokens outlive their frames. `answered_s`: time of its last step, by the engine's clock.
    """

    def __init__(
        self,
        stream: str,
        family: Family,
        prefix: Prefix,
        pool: KVPool,
        since: int = 0,
        *,
        keeps_background: bool = False,
    ) -> None:
        self.stream = stream
        self.family = family
        self.prefix = prefix
        self.pool = pool
        self.since = since
        self.keeps_background = keeps_background
        self.answered_s = 0.0
        self.frames: list[HeldFrame] = []
        self.background = Cells()
        self.pages: list[int] = []
        self.first_page = 0
        self.start = 0
        self.slots = len(prefix)
        self.position = len(prefix)
        self._placed = False  # whether the prefix is at `start`
        self._span = 0  # positions that the background takes

    @property
    def live(self) -> list[HeldFrame]:
        """Frames that hold tokens."""
        return [frame for frame in self.frames if frame.tokens]

    @property
    def tokens(self) -> int:
        """Tokens of prefix, background and frames."""
        return self.slots - self.start

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of background and frames."""
        return len(self.background) + sum(frame.kept for frame in self.frames)

    @property
    def held_bytes(self) -> int:
        """Bytes that this stream takes: pages of keys and values, and data held for refreshing."""
        features = self.background.features
        held = 0 if features is None else features.numel() * features.element_size()
        return len(self.pages) * self.pool.page_bytes + held + sum(frame.held_bytes for frame in self.frames)

    def prefix_run(self) -> Run:
        return Run.of_text(self.start, self.prefix.ids, self.position_of_prefix, self.family.axes)

    @property
    def position_of_prefix(self) -> int:
        live = self.live
        return live[0].position - self._span - len(self.prefix) if live else 0

    def unchanged(self, first: int) -> bool:
        """Whether its visual tokens stay the same after frames before slot `first` have left and the new ones have arrived:
        no new frame keeps a token, and tokens that leave a frame only become background."""
        leaving = [frame for frame in self.frames if frame.tokens and frame.index < first]
        if not leaving:
            return True
        after = self._outlived(leaving, [frame for frame in self.live if frame.index >= first])
        return len(after) == len(self.background) + sum(frame.kept for frame in leaving)

    def _outlived(self, leaving: Sequence[HeldFrame], newer: Sequence[HeldFrame]) -> Cells:
        if not self.keeps_background:
            return self.background
        newest = [Cells(frame.shape, frame.places) for frame in newer]
        return outlived(self.background, [frame.cells for frame in leaving], newest)

    def plan(self, first: int, new: Sequence[HeldFrame], *, from_scratch: bool = False) -> Slide:
        """Its state after frames before slot `first` have left and `new` ones have arrived. `from_scratch`: everything will
        be recomputed, from slot and position 0."""
        stays = [frame for frame in self.frames if frame.index >= first]
        live = [frame for frame in stays if frame.tokens]
        leaving = [frame for frame in self.frames if frame.tokens and frame.index < first]
        background = self._outlived(leaving, [*live, *(frame for frame in new if frame.tokens)])
        _, span = placed(self.family, background)
        moved = bool(leaving) or len(background) != len(self.background)
        held = len(self.prefix) + len(background)
        start, slots, position, turn = 0, held, len(self.prefix) + span, 0
        if live and not from_scratch:
            start, slots, position = live[0].slot - held, self.slots, self.position
            turn = live[0].position - span - len(self.prefix)
        if from_scratch:
            slots += sum(frame.tokens for frame in live)
            position += sum(frame.span for frame in live)
        slots += sum(frame.tokens for frame in new)
        position += sum(frame.span for frame in new)
        return Slide(stays, background, span, moved, start, slots, position, turn)

    def slide(
        self, plan: Slide, new: Sequence[HeldFrame], moves: Moves, *, from_scratch: bool = False, rebase: bool = False
    ) -> None:
        """Applies a plan: releases the pages of frames that leave and places `new` frames. What it holds is in place once
        `moves` are applied. Keys and values of new frames, and with `from_scratch` those of all frames, background and
        prefix, are still to be computed."""
        before = self.start, self.position_of_prefix
        self.frames = plan.stays
        self._span = plan.span
        live = self.live
        first = live[0].slot if live and not from_scratch else plan.start + len(self.prefix) + len(plan.background)
        origin = (live[0].position if live and not from_scratch else len(self.prefix) + plan.span) - plan.span
        if rebase and not from_scratch:
            origin -= plan.turn
        background = plan.background.at(first - len(plan.background), origin, features=from_scratch)
        sources = self.located(plan.background.slots) if _moved(plan.background, background) else None
        if from_scratch or not live:
            self.first_page, self.start, self.slots, self.position = 0, 0, first, origin + plan.span
        else:
            self.start = plan.start
            unused = self.start // PAGE - self.first_page
            self.pool.give(self.pages[:unused])
            del self.pages[:unused]
            self.first_page += unused
        self._hold(plan.pages)
        if from_scratch:
            for frame in self.frames:
                frame.fresh = True
                self._place(frame)
        elif rebase and plan.turn:
            self._rebase(plan.turn, moves)
        self.background = background
        if sources is not None and not from_scratch:
            # A token may be moved many times and is rounded each time. --coverage background keeps each cell again before
            # that adds up (docs/decisions/023-background.md).
            distances = background.origins - plan.background.origins
            moves.carry(sources, self.located(background.slots), distances)
        if not from_scratch and (not self._placed or before != (self.start, self.position_of_prefix)):
            moves.place(self.located(np.arange(self.start, self.start + len(self.prefix))), self.position_of_prefix)
            self._placed = True
        for frame in new:
            self.frames.append(frame)
            self._place(frame)

    def _place(self, frame: HeldFrame) -> None:
        if frame.tokens:
            frame.slot, frame.position = self.slots, self.position
            self.slots += frame.tokens
            self.position += frame.span

    def _rebase(self, distance: int, moves: Moves) -> None:
        """Restarts positions at 0: every live key is rotated back by the same distance, so differences do not change."""
        moves.turn(self.located(np.arange(self.live[0].slot, self.slots)), -distance)
        for frame in self.frames:
            frame.position -= distance
        self.position -= distance

    # --- pages ---------------------------------------------------------------------------------------------------------

    def reserve(self, tokens: int) -> None:
        """Allocates room for `tokens` after the frames, for questions; 0 releases that room."""
        self._hold(pages_of(self.start, self.slots + tokens))

    def release(self) -> None:
        """Returns all pages. The window must not be used afterwards."""
        self._hold(0)
        self.frames, self.background = [], Cells()

    def _hold(self, pages: int) -> None:
        """Takes pages after the last one, or returns the last ones."""
        if pages > len(self.pages):
            self.pages += self.pool.take(pages - len(self.pages))
        else:
            self.pool.give(self.pages[pages:])
            del self.pages[pages:]

    def where(self, start: int, stop: int) -> Tensor:
        """The pool slots of the window's slots [start, stop): (stop - start,) int64 on the CPU."""
        return torch.from_numpy(self.located(np.arange(start, stop)))

    def located(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The pool slots of the window's `slots`."""
        pages, places = np.divmod(slots, PAGE)
        found: npt.NDArray[np.int64] = np.asarray(self.pages, dtype=np.int64)[pages - self.first_page] * PAGE + places
        return found

    def check_integrity(self) -> None:
        """Checks the bookkeeping's invariants; for tests and for idle moments."""
        slot, position = self.start + len(self.prefix), None
        if len(self.background):
            assert self.background.slots.tolist() == list(range(slot, slot + len(self.background)))
            slot, position = slot + len(self.background), int(self.background.origins[0]) + self._span
            assert position == self.position_of_prefix + len(self.prefix) + self._span, f"{self.stream}: background"
            cells = [frame.cells.cells for frame in self.live if frame.shape == self.background.shape]
            assert not np.isin(self.background.cells, np.concatenate(cells) if cells else []).any(), "held twice"
        for frame in self.live:
            assert frame.slot == slot, f"{self.stream}: frame {frame.index} lies at {frame.slot}, not {slot}"
            assert position is None or frame.position == position, f"{self.stream}: positions leave a gap"
            slot, position = frame.slot + frame.tokens, frame.position + frame.span
        assert slot == self.slots, f"{self.stream}: {self.slots} slots in use, frames end at {slot}"
        assert position is None or position == self.position
        assert self.first_page == self.start // PAGE
        assert len(self.pages) == pages_of(self.start, self.slots), f"{self.stream}: {len(self.pages)} pages"


def _moved(before: Cells, after: Cells) -> bool:
    return len(before) > 0 and not (
        np.array_equal(before.slots, after.slots) and np.array_equal(before.origins, after.origins)
    )


def pages_of(start: int, stop: int) -> int:
    """Number of pages that cover slots [start, stop)."""
    return -(-stop // PAGE) - start // PAGE
