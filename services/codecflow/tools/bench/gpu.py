"""What `codecflow bench gpu` measures: rows of policies, streams, questions and precisions on models' shapes and clips."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from codecflow.tools.bench.clip_masks import ClipMasks
from codecflow.tools.bench.peaks import Peaks
from codecflow.tools.bench.window_cost import Case, Cost, Plan
from codecflow.tools.bench.window_measurement import Measurement
from codecflow.vlm.families import Family
from codecflow.vlm.loading import set_precision
from codecflow.vlm.refresh import Refresh

AS_MANY_AS_FIT = 0
"""As a number of streams: as many as fit."""

FILLED = 0.9
"""Share of the KV memory to fill when serving as many streams as fit: windows differ in size."""

Where = Literal["everywhere", "clips", "once"]


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration. `where` it is measured: with each shape and clip, with each clip on the first shape, or only on the
    first of both. `streams`: served at once; MOST only for the first shape."""

    name: str
    keep: str
    refresh: str
    streams: tuple[int, ...]
    where: Where = "once"
    questions: int = 1
    text: int = 0
    weights: str = "auto"
    kv: str = "auto"


ROWS = (
    Row("full", "all", "all", (1,), "everywhere"),
    Row("ViT once, full prefill", "all", "budget=1", (1, 8)),
    Row("all once", "all", "none", (1, 8)),
    Row("CacheBlend, 15 %", "all", "budget=0.15", (1, 8)),
    Row("motion, anchors again", "motion", "anchors", (1, 8), "clips"),
    Row("replenish", "replenish", "none", (1, 8, 32, AS_MANY_AS_FIT), "everywhere"),
    Row("replenish, background", "background", "none", (1, 8, 32), "clips"),
    Row("replenish, 4 questions", "replenish", "none", (8, 32), questions=4),
    Row("replenish, 32 tokens", "replenish", "none", (8, 32), text=32),
    Row("replenish, fp8 KV", "replenish", "none", (8, 32, AS_MANY_AS_FIT), kv="fp8"),
    Row("full, fp8", "all", "all", (1,), weights="fp8"),
    Row("replenish, fp8", "replenish", "none", (1, 8, 32), "clips", weights="fp8"),
    Row("background, fp8", "background", "none", (8, 32), "clips", weights="fp8"),
)
"""Weights in 8 bits come last: the conversion cannot be undone."""


@dataclass(frozen=True, slots=True)
class Found:
    """Results of a row: `cost` of a window, and the reference, full computation of its shape in the dtype on the first clip.

    `p99_ms`: of a slide, all streams together. `first_ms`: from its start to all streams' first tokens. `faster`: speed-up
    over full. `peak_share`: share of the device's largest measured product rate in this precision. `intensity`: FLOPs per
    byte of weights and held keys and values, each read once: the minimum that a step reads.
    """

    row: Row
    shape: str
    cost: Cost
    p99_ms: float = 0.0
    first_ms: float = 0.0
    faster: float | None = None
    peak_share: float = 0.0
    intensity: float = 0.0


def measure_shape(
    shape: str,
    family: Family,
    clips: Sequence[ClipMasks],
    plan: Plan,
    rows: Sequence[Row],
    peaks: Peaks,
    *,
    first: bool,
) -> Iterator[Found]:
    """Every row that is measured with this shape, which is the `first` or not; the row `full` comes first."""
    full: Cost | None = None
    stored = family.kv
    weights = _weight_bytes(family)
    eighth = False
    for row in rows:
        if not first and row.where != "everywhere":
            continue
        if row.weights == "fp8" and not eighth:
            set_precision(family, "fp8", "auto")
            weights, eighth = _weight_bytes(family), True
        family.store(replace(stored, eight_bit=row.kv == "fp8"))
        configured = replace(plan, questions=row.questions, text=row.text)
        measurement = Measurement(family, configured, idle=True)
        for number, clip in enumerate(clips):
            if number and (row.where == "once" or not first or row.keep == "all"):
                continue
            before: Cost | None = None
            for streams in row.streams:
                if streams == AS_MANY_AS_FIT and (number or not first or before is None or before.failed):
                    continue
                count = streams or max(1, int(FILLED * before.pool_bytes / before.held_bytes))  # type: ignore[union-attr]
                case = Case(row.keep, row.refresh, Refresh.parse(row.refresh), count)
                cost = before = measurement.run(clip, case)
                found = _found(row, shape, cost, full, peaks, weights)
                full = full or (cost if row.refresh == "all" and not cost.failed else None)
                _print_progress(found)
                yield found


def _found(row: Row, shape: str, cost: Cost, full: Cost | None, peaks: Peaks, weights: int) -> Found:
    if cost.failed:
        return Found(row, shape, cost)
    peak = peaks.tflops["fp8"] if row.weights == "fp8" and "fp8" in peaks.tflops else next(iter(peaks.tflops.values()))
    step = sum(cost.steps_ms) / len(cost.steps_ms)
    # For a yes-no question the first token is the answer; text continues from there.
    later = cost.stages_ms.get("answer", 0.0) * cost.streams if row.text else 0.0
    reference = full or (cost if row.refresh == "all" else None)
    return Found(
        row,
        shape,
        cost,
        p99_ms=float(np.percentile(cost.steps_ms, 99)),
        first_ms=step - later,
        faster=None if reference is None else reference.ms / cost.ms,
        peak_share=cost.tflops_per_s / peak,
        intensity=cost.flops * cost.streams / (weights + cost.kv_bytes * cost.streams),
    )


def _weight_bytes(family: Family) -> int:
    if family.device.type == "cuda":
        return torch.cuda.memory_allocated(family.device)
    return sum(parameter.nbytes for parameter in family.model.parameters())


def _print_progress(found: Found) -> None:
    cost = found.cost
    said = cost.failed or f"{cost.ms:.1f} ms per window, {100 * cost.flops_share:.2f} % of the FLOPs"
    line = f"{found.shape}, {cost.clip}: {found.row.name}, {cost.streams} streams: {said}"
    print(line, file=sys.stderr, flush=True)
