"""`codecflow bench gpu`: from its options to its tables, figure and JSON line."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import torch
import transformers

from codecflow.errors import ConfigError
from codecflow.exact import positive
from codecflow.tools.bench.clip_masks import masks_of_clip
from codecflow.tools.bench.device_check import check_device
from codecflow.tools.bench.gpu import AS_MANY_AS_FIT, ROWS, Found, Row, measure_shape
from codecflow.tools.bench.peaks import Peaks, measure_peaks
from codecflow.tools.bench.window_cost import Plan, as_figures
from codecflow.tools.report.charts import check_possible
from codecflow.tools.report.table import display_names, print_json, print_table
from codecflow.vlm.loading import choose_device, choose_dtype, device_name
from codecflow.vlm.shapes import build_shape, shape_by_name
from codecflow.worker.window_plan import WindowPlan

SHAPES = "internvl3-8b,internvl3-1b,internvl3-14b,qwen3-vl-8b"

STREAMS = {"1": 1, "8": 8, "32": 32, "most": AS_MANY_AS_FIT}

COLUMNS = (
    "", "n", "ms", "p99", "first", "served", "faster", "kept %", "FLOP %", "TFLOP/s", "peak %", "idle %", "KV MiB",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """Command line options. `results`: a file with the JSON line of an earlier run, to draw."""

    clips: Sequence[Path] = ()
    shapes: str = SHAPES
    rows: str = ""
    dtype: str = "auto"
    device: str = "auto"
    window_s: str = "40"
    stride_s: str = "8"
    fps: str = "2"
    anchor_s: str = "8"
    slides: int = 6
    max_s: float = 5.0
    streams: str = "1,8,32,most"
    check: bool = True
    plot: Path | None = None
    results: Path | None = None


def run(options: Options) -> None:
    """Measures and prints, or draws earlier results. Raises ConfigError, SourceError and ModelError."""
    if options.plot is not None:
        check_possible(options.plot.parent)
    if options.results is not None:
        if options.plot is None or options.clips:
            raise ConfigError("--results FILE is drawn: give --plot FILE, and no clip")
        _draw(_read(options.results), options.plot)
        return
    if not options.clips:
        raise ConfigError("give a CLIP")
    windows = WindowPlan.of(options.window_s, options.stride_s, options.fps)
    anchor_s = positive(options.anchor_s, "--anchor")
    shapes = [name.strip() for name in options.shapes.split(",")]
    for name in shapes:
        shape_by_name(name)
    rows = _rows(options)
    plan = Plan(
        window=windows.window_slots,
        stride=windows.stride_slots,
        stride_s=float(windows.stride_slots / windows.fps),
        slides=options.slides,
        questions=1,
        max_s=options.max_s,
    )
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    checked = check_device(device) if options.check and device.type == "cuda" else {}
    peaks = measure_peaks(device, dtype)
    seconds = (plan.window + (plan.slides + 1) * plan.stride) / float(windows.fps)
    clips_by_name = list(zip(display_names(options.clips), options.clips, strict=True))

    found: list[Found] = []
    built: dict[str, float] = {}
    with suppress(KeyboardInterrupt):  # prints what has been measured
        for number, name in enumerate(shapes):
            begun = time.perf_counter()
            family = build_shape(name, dtype, device)
            built[name] = time.perf_counter() - begun
            clips = [
                masks_of_clip(clip_name, clip, family.grid, windows.fps, anchor_s, seconds)
                for clip_name, clip in (clips_by_name[:1] if number else clips_by_name)
            ]
            for one in measure_shape(name, family, clips, plan, rows, peaks, first=number == 0):
                found.append(one)  # one by one, as it may be interrupted
            del family
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if not found:
        raise ConfigError("interrupted before the first row was measured")
    figures = _figures(options, plan, device, dtype, checked, peaks, built, found)
    _print(figures, found)
    if options.plot is not None:
        _draw(figures, options.plot)
    print_json(figures)


def _rows(options: Options) -> list[Row]:
    names = [name.strip() for name in options.rows.split("/") if name.strip()]
    unknown = [name for name in names if name not in {row.name for row in ROWS}]
    if unknown:
        raise ConfigError(f"--rows {unknown[0]!r}: use {' / '.join(row.name for row in ROWS)}")
    chosen = [row for row in ROWS if not names or row.name in names]
    counts = [part.strip() for part in options.streams.split(",")]
    if not set(counts) <= STREAMS.keys():
        raise ConfigError(f"--streams {options.streams!r}: use some of {','.join(STREAMS)}")
    wanted = {STREAMS[count] for count in counts}
    return [replace(row, streams=tuple(count for count in row.streams if count in wanted)) for row in chosen]


def _figures(
    options: Options,
    plan: Plan,
    device: torch.device,
    dtype: torch.dtype,
    checked: dict[str, float],
    peaks: Peaks,
    built: dict[str, float],
    found: Sequence[Found],
) -> dict[str, Any]:
    return {
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trained": False,
        "window_frames": plan.window,
        "stride_frames": plan.stride,
        "stride_s": plan.stride_s,
        "anchor_s": options.anchor_s,
        "peaks": asdict(peaks),
        "deviations_from_cpu": checked,
        "built_s": built,
        "results": [
            {
                "row": one.row.name,
                "shape": one.shape,
                "questions": one.row.questions,
                "text_tokens": one.row.text,
                "weights": one.row.weights,
                "kv": one.row.kv,
                **as_figures([one.cost])[0],
                "p99_ms": round(one.p99_ms, 2),
                "first_ms": round(one.first_ms, 2),
                "faster": one.faster and round(one.faster, 2),
                "peak_share": round(one.peak_share, 4),
                "intensity": round(one.intensity, 1),
            }
            for one in found
        ],
    }


def _print(figures: dict[str, Any], found: Sequence[Found]) -> None:
    peaks = figures["peaks"]
    most = ", ".join(f"{value:,.0f} TFLOP/s in {name}" for name, value in peaks["tflops"].items())
    for place in dict.fromkeys((one.shape, one.cost.clip) for one in found):
        print_table(
            f"{place[0]} (random weights: times and FLOPs are real, answers are not), {place[1]}, {figures['device']}",
            COLUMNS,
            [_row(one) for one in found if (one.shape, one.cost.clip) == place],
            f"n streams at once, windows of {figures['window_frames']} frames of which {figures['stride_frames']} are new,"
            f" {figures['dtype']}; ms of one window of one stream; p99 and first token: of a step of all streams, in ms;"
            f" the device's products: {most}; copies: {peaks['gbytes_per_s']:,.0f} GB/s",
        )


def _row(one: Found) -> list[str]:
    cost = one.cost
    if cost.failed:
        return [one.row.name, str(cost.streams), cost.failed, *[""] * (len(COLUMNS) - 3)]
    return [
        one.row.name,
        str(cost.streams),
        f"{cost.ms:.1f}",
        f"{one.p99_ms:.0f}",
        f"{one.first_ms:.0f}",
        f"{cost.streams_served:.0f}",
        "" if one.faster is None else f"{one.faster:.1f}x",
        f"{100 * cost.tokens_kept:.1f}",
        f"{100 * cost.flops_share:.2f}",
        f"{cost.tflops_per_s:.3g}",
        f"{100 * one.peak_share:.0f}",
        "" if cost.idle_share is None else f"{100 * cost.idle_share:.0f}",
        f"{cost.kv_bytes / 2**20:.0f}",
    ]


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(file.read_bytes().strip().splitlines()[-1])
        if not {"results", "peaks"} <= found.keys():
            raise ValueError("no results of bench gpu")
    except (OSError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(f"results {file}: cannot be read ({error}); give the output of codecflow bench gpu") from None
    return found


def _draw(figures: dict[str, Any], plot: Path) -> None:
    from codecflow.tools.bench.gpu_charts import draw

    draw(figures, plot)
