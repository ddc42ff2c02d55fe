"""`codecflow explain`: illustrates the method on a clip. docs/explanation/method.md shows the figures of the bundled
clip."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codecflow.errors import ConfigError
from codecflow.folders import make_folder
from codecflow.grid import TokenGrid
from codecflow.keep import KeepConfig, KeepDecision, KeepState, parse_coverage
from codecflow.keep.zones import view_of
from codecflow.messages import BLOCK, Signal, Zone
from codecflow.orientation import coded_boxes, inverse, upright
from codecflow.tools.report.charts import check_possible
from codecflow.tools.report.table import print_json, print_table, progress
from codecflow.worker.settings import DEFAULT_REUSE_S, reuse_slots
from codecflow.worker.window_plan import WindowPlan

from .holding import Holding
from .sampling import SampledFrame, decoded_frames, decoding, keep_state, published
from .savings import MODEL, REFRESHES, FrameRecord, Savings, savings, windows_of


@dataclass(frozen=True, slots=True)
class Example:
    """A frame with motion.

    `picture`: (height, width, 3) uint8 RGB, upright, covered by `grid`. `signal`: of the coded picture, which `orientation`
    turns upright.
    """

    time_s: float
    picture: npt.NDArray[np.uint8]
    signal: Signal
    decision: KeepDecision
    grid: TokenGrid
    orientation: int
    zones: Sequence[Zone] = ()

    def blocks(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[int, int, int, int]]:
        """Values of the coded picture's blocks in the orientation of the shown one, and their extent (left, right, bottom,
        top): blocks may extend beyond the picture on any side."""
        rows, columns = values.shape
        coded = np.array([[0, 0, columns * BLOCK, rows * BLOCK]], np.int32)
        box = coded_boxes(coded, self.grid.width, self.grid.height, inverse(self.orientation))
        left, top, right, bottom = box[0].tolist()
        return upright(values, self.orientation), (left, right, bottom, top)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The end of a window under coverage `background`.

    `newest`: (tokens,) presentation time in seconds at which each cell was last kept; before `start_s` it is background.
    `picture`: (height, width, 3) uint8 RGB, upright, covered by `grid`.
    """

    start_s: float
    end_s: float
    picture: npt.NDArray[np.uint8]
    grid: TokenGrid
    newest: npt.NDArray[np.float64]

    @property
    def share(self) -> float:
        """Share of cells whose token is background."""
        return float((self.newest < self.start_s).mean())


class Background:
    """The stream under coverage `background`, whatever coverage is explained.

    `holding`: what each window holds; `kept`: tokens that each window's new frames keep; `best`: the window that shows both
    kinds of tokens best.
    """

    def __init__(self, config: KeepConfig, plan: WindowPlan, zones: Sequence[Zone] = ()) -> None:
        self._zones = zones
        self.kept: Counter[int] = Counter()
        self.best: Snapshot | None = None
        self.holding = Holding(plan, True, reuse_slots(DEFAULT_REUSE_S, plan.fps))
        self._config = config
        if not config.background:
            kind, period_s, slack_s = parse_coverage("background", config.period_s, config.fps)
            self._config = replace(config, coverage=kind, period_s=period_s, slack_s=slack_s)
        self._plan = plan
        self._grid: TokenGrid | None = None

    def add(self, frame: SampledFrame, grid: TokenGrid, coded: TokenGrid) -> None:
        """Adds the next frame; `grid` covers the shown picture, `coded` the coded one."""
        if self._grid is not grid:
            self._grid, self._state = grid, KeepState(coded, self._config, view_of(self._zones, grid).hidden)
            self._newest = np.full(grid.tokens, -1)
        decision = frame.decide(self._state)
        self._newest[decision.keep] = frame.slot
        window = self._plan.window_of(frame.slot)
        self.kept[window] += int(decision.keep.sum())
        self.holding.add(frame.slot, decision.keep)
        if frame.slot + 1 == self._plan.end(window) and self._plan.first(window) > 0:
            start_s, end_s = (float(self._plan.time(slot)) for slot in (self._plan.first(window), frame.slot + 1))
            seen = Snapshot(start_s, end_s, frame.picture.rgb(), grid, self._newest / float(self._plan.fps))
            if self.best is None or abs(seen.share - 0.6) < abs(self.best.share - 0.6):
                self.best = seen


def run(
    clip: Path,
    out: Path,
    config: KeepConfig,
    plan: WindowPlan,
    *,
    side: int,
    refresh: str,
    seconds: float | None,
    zones: Sequence[Zone] = (),
) -> None:
    """Writes frame.png, window.png, share.png and, if the clip is longer than a window, background.png to the folder
    `out`, then one JSON line with the figures.

    `side`: tokens along each side of the grid. `refresh`: none, anchors or all. `zones`: of the clip.
    Raises ConfigError and SourceError.
    """
    if refresh not in REFRESHES:
        raise ConfigError(f"refresh policy {refresh!r}: use one of {', '.join(REFRESHES)}")
    check_possible(make_folder(out))
    with progress() as bar:
        task = bar.add_task(clip.name, total=None)
        records: list[FrameRecord] = []
        example: Example | None = None
        best = -math.inf
        behind = Background(config, plan, zones)
        pictures = list(published(clip, config.fps, seconds))
        frames = decoded_frames(pictures, config.fps)
        for record, candidate in _decisions(frames, config, side, behind, zones):
            records.append(record)
            score = -math.inf if candidate is None else _contrast(candidate)
            if score > best:
                best, example = score, candidate
            bar.update(task, completed=record.time_s)
    behind.holding.end()
    worker = decoding(pictures, config.fps, partial(keep_state, tokens=side, config=config, zones=zones))
    outlived = [window.background for window in behind.holding.windows] if config.background else []
    windows = windows_of(records, plan, refresh, outlived)
    if example is None:
        raise ConfigError(
            f"clip {clip.name}: it ends before a frame that is no anchor; give a longer one, or a higher --fps"
        )

    from .explain_charts import draw_background, draw_frame, draw_share, draw_window

    draw_frame(example, out / "frame.png")
    draw_window(windows[-4:], refresh, out / "window.png")
    draw_share(records, config, worker.gops, out / "share.png")
    drawn = [out / name for name in ("frame.png", "window.png", "share.png")]
    if behind.best is not None:
        drawn.append(out / "background.png")
        draw_background(behind.best, behind, windows, config.coverage, drawn[-1])
    costs = _compare(records, plan, outlived)
    tokens = sum(record.total for record in records)
    print_json(
        {
            "clip": clip.name,
            "frames": len(records),
            "frame_s": example.time_s,
            "noise": example.signal.noise / 8,
            "kept_share": round(sum(record.kept for record in records) / tokens, 4),
            "motion_kept_share": round(sum(record.motion_kept for record in records) / tokens, 4),
            "certified_share": round(sum(record.certified for record in records) / tokens, 4),
            "flops": {name: round(cost.total) for name, cost in costs.items()},
            "gops": len(worker.gops),
            "gops_decoded": worker.gops_decoded,
            "coded_pictures": worker.published,
            "decoded_pictures": worker.decoded,
            "pictures": [str(picture) for picture in drawn],
        }
    )


def _compare(records: Sequence[FrameRecord], plan: WindowPlan, outlived: Sequence[int]) -> dict[str, Savings]:
    """Prints and returns the cost of a full window under each pair of policies; of growing windows if none is full."""
    everything = [replace(record, kept=record.total) for record in records]
    by_motion = [replace(record, kept=record.motion_kept) for record in records]
    contenders = [
        ("all + all", everything, "all"),
        ("all + none", everything, "none"),
        ("motion + anchors", by_motion, "anchors"),
        ("replenish + anchors", records, "anchors"),
        ("replenish + none", records, "none"),
    ]
    costs: dict[str, Savings] = {}
    for name, kept, refresh in contenders:
        windows = windows_of(kept, plan, refresh, outlived if kept is records else ())
        full = [window for window in windows if any(window.evicted)] or windows[-1:]
        costs[name] = savings(full, from_scratch=refresh == "all")
    whole = costs["all + all"].total
    print_table(
        f"A window at {MODEL}'s shapes, mean over {len(full)} windows",
        [
            "keep + refresh",
            "through the ViT",
            "through the LLM",
            "held in KV",
            "ViT TFLOP",
            "LLM TFLOP",
            "of all + all",
        ],
        [
            [
                name,
                *(f"{tokens:.0f}" for tokens in (cost.encoded, cost.computed, cost.held)),
                *(f"{flops / 1e12:.1f}" for flops in (cost.vit, cost.llm)),
                f"{100 * cost.total / whole:.1f} %",
            ]
            for name, cost in costs.items()
        ],
        note="tokens and FLOPs per window, one question of 40 tokens included",
    )
    return costs


def _decisions(
    frames: Iterator[SampledFrame], config: KeepConfig, side: int, behind: Background, zones: Sequence[Zone]
) -> Iterator[tuple[FrameRecord, Example | None]]:
    """The record of each frame, and the frame itself unless coverage kept it completely."""
    shape: tuple[tuple[int, int], int] | None = None
    for frame in frames:
        picture = frame.picture
        if shape != (picture.size, picture.orientation):
            shape = (picture.size, picture.orientation)
            grid = TokenGrid.regular(side, side, *picture.size)
            coded = grid.oriented(picture.orientation)
            hidden = view_of(zones, grid).hidden
            if hidden.all():
                raise ConfigError("--zones: they hide the whole picture; make an `only` zone larger, or remove one")
            state = KeepState(coded, config, hidden)
            motion = KeepState(coded, replace(config, policy="motion"), hidden)
        decision = frame.decide(state)
        behind.add(frame, grid, coded)
        record = FrameRecord(
            slot=frame.slot,
            time_s=frame.time_s,
            total=grid.tokens,
            kept=int(decision.keep.sum()),
            compared=int((decision.compared & ~decision.keep).sum()),
            certified=int(decision.certified.sum()),
            anchor=decision.anchor,
            motion_kept=int(frame.decide(motion).keep.sum()),
        )
        if decision.anchor or frame.signal.since is None:
            yield record, None
        else:
            yield (
                record,
                Example(frame.time_s, picture.rgb(), frame.signal, decision, grid, picture.orientation, zones),
            )


def _contrast(example: Example) -> float:
    """How well a frame illustrates the method: clear motion in a part of it, little in the rest."""
    keep = example.decision.keep
    if not 0.04 <= keep.mean() <= 0.3:
        return -abs(float(keep.mean()) - 0.15)
    change = np.repeat(np.repeat(example.signal.change.astype(float), 16, 0), 16, 1)
    boxes = example.grid.oriented(example.orientation).boxes.tolist()
    means = np.array([change[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in boxes])
    return float((means[keep].mean() - means[~keep].mean()) * np.sqrt(keep.mean()))
