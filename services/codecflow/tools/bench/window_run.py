"""`codecflow bench window`: from its options to its table and JSON line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import torch
import transformers

from codecflow.errors import ConfigError
from codecflow.exact import counts, positive
from codecflow.grid import TokenGrid
from codecflow.tools.bench.clip_masks import MASK_NAMES, ClipMasks, GridOf, load_masks, masks_of_clip, save_masks
from codecflow.tools.bench.device_check import check_device
from codecflow.tools.bench.window_cost import POLICIES, Case, Cost, Plan, as_figures
from codecflow.tools.bench.window_measurement import Measurement
from codecflow.tools.report.table import display_names, print_json, print_table
from codecflow.vlm.families import Family
from codecflow.vlm.loading import choose_device, choose_dtype, device_name, load_model, set_precision
from codecflow.vlm.refresh import Refresh
from codecflow.vlm.shapes import build_shape, shape_by_name
from codecflow.worker.window_plan import WindowPlan

COLUMNS = (
    "keep + refresh", "n", "ms", "vit", "llm", "answer", "faster", "served", "kept %", "new %", "FLOP %", "TFLOP/s",
    "KV MiB", "|Δlogit|", "agree %",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """Command line options; the defaults are the paper's set-up on a model for a CPU. `began`: perf_counter() before torch
    was imported."""

    clips: Sequence[Path] = ()
    shape: str = "internvl-small"
    model: str | None = None
    dtype: str = "auto"
    weights: str = "auto"
    kv: str = "auto"
    device: str = "auto"
    policies: str = POLICIES
    streams: str = "1"
    fps: str = "2"
    window_s: str = "40"
    stride_s: str = "8"
    anchor_s: str = "8"
    slides: int = 3
    questions: int = 1
    text: int = 0
    save_masks: Path | None = None
    masks: Path | None = None
    profile: bool = False
    began: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the start of a worker's process to its first answer, except for joining Kafka's consumer group: importing
    the libraries, loading the model, reading and answering the first window of one stream (None: it could not be)."""

    imports_s: float
    model_s: float
    window_s: float | None

    def __str__(self) -> str:
        parts = f"imports {self.imports_s:.1f} s, model {self.model_s:.1f} s"
        if self.window_s is None:
            return f"start: {parts}"
        total = self.imports_s + self.model_s + self.window_s
        return f"first answer {total:.1f} s after the start: {parts}, first window {self.window_s:.1f} s"


def run(options: Options, locate: Callable[[str], str] = str) -> None:
    """Measures and prints, or only writes masks. Raises ConfigError, SourceError and ModelError.

    `locate`: returns the hub id or folder of a model by its name. Called after all other options have been validated.
    """
    imports_s = time.perf_counter() - options.began
    windows = WindowPlan.of(options.window_s, options.stride_s, options.fps)
    fps, anchor_s = windows.fps, positive(options.anchor_s, "--anchor")
    plan = Plan(
        window=windows.window_slots,
        stride=windows.stride_slots,
        stride_s=float(windows.stride_slots / fps),
        slides=options.slides,
        questions=options.questions,
        text=options.text,
    )
    if bool(options.clips) == (options.masks is not None):
        raise ConfigError("give a CLIP, or --masks with a file that --save-masks wrote, not both")
    cases = _cases(options.policies, options.streams)
    if options.save_masks is not None:
        grid_of = _grid_of(options, locate)
        clips = _masks(options, grid_of, fps, anchor_s, plan)
        save_masks(clips, options.save_masks, grid_of)
        size = options.save_masks.stat().st_size
        print_json(
            {"masks": str(options.save_masks), "bytes": size, "frames": {clip.name: len(clip) for clip in clips}}
        )
        return
    loading = time.perf_counter()
    family = _model(options, locate)
    model_s = time.perf_counter() - loading
    clips = _masks(options, family.grid, fps, anchor_s, plan)
    measurement = Measurement(family, plan, options.profile)
    start = Start(imports_s, model_s, measurement.first_window_s(clips[0], cases[-1]))
    print(start, file=sys.stderr, flush=True)
    checked = check_device(family.device) if family.device.type == "cuda" else {}
    _print_results(options, family, plan, clips, measurement.measure(clips, cases), start, checked)


def _model(options: Options, locate: Callable[[str], str]) -> Family:
    if options.model is not None:
        return load_model(locate(options.model), options.dtype, options.device, options.weights, options.kv)
    device = choose_device(options.device)
    family = build_shape(options.shape, choose_dtype(options.dtype, device), device)
    set_precision(family, options.weights, options.kv)
    return family


def _grid_of(options: Options, locate: Callable[[str], str]) -> GridOf:
    """A shape's grid is known without building the model."""
    if options.model is not None:
        return _model(options, locate).grid
    shape = shape_by_name(options.shape)
    if shape.family != "internvl":
        return _model(options, locate).grid
    return lambda width, height: TokenGrid.regular(shape.cells, shape.cells, width, height)


def _masks(options: Options, grid_of: GridOf, fps: Fraction, anchor_s: Fraction, plan: Plan) -> list[ClipMasks]:
    if options.masks is not None:
        return load_masks(options.masks, grid_of)
    seconds = (plan.window + plan.slides * plan.stride) / float(fps)
    return [
        masks_of_clip(name, clip, grid_of, fps, anchor_s, seconds)
        for name, clip in zip(display_names(options.clips), options.clips, strict=True)
    ]


def _print_results(
    options: Options,
    family: Family,
    plan: Plan,
    clips: Sequence[ClipMasks],
    costs: Sequence[Cost],
    start: Start,
    checked: dict[str, float],
) -> None:
    device = device_name(family.device)
    model = options.model or options.shape
    weights = "trained" if family.trained else "random weights: times and FLOPs are real, answers are not"
    for clip in clips:
        print_table(
            f"{clip.name}: {model} ({weights}), {str(family.dtype).removeprefix('torch.')} on {device}",
            COLUMNS,
            [_row(cost) for cost in costs if cost.clip == clip.name],
            f"n streams at once, windows of {plan.window} frames of which {plan.stride} are new, {plan.questions} questions;"
            f" ms of one window of one stream; new %: share of the window's tokens that were computed for it; {start}",
        )
    print_json(
        {
            "model": model,
            "trained": family.trained,
            "device": device,
            "dtype": str(family.dtype).removeprefix("torch."),
            "weights": options.weights,
            "kv": options.kv,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "window_frames": plan.window,
            "stride_frames": plan.stride,
            "stride_s": plan.stride_s,
            "questions": plan.questions,
            "text_tokens": plan.text,
            "start": asdict(start),
            "deviations_from_cpu": checked,
            "results": as_figures(costs),
        }
    )


def _row(cost: Cost) -> list[str]:
    name = f"{cost.keep} + {cost.refresh}"
    if cost.failed:
        return [name, str(cost.streams), cost.failed, *[""] * (len(COLUMNS) - 3)]

    def maybe(value: float | None, form: str) -> str:
        return "" if value is None else form.format(value)

    return [
        name,
        str(cost.streams),
        f"{cost.ms:.1f}",
        *(f"{cost.stages_ms[stage]:.1f}" for stage in ("vit", "llm", "answer")),
        maybe(cost.speedup, "{:.1f}x"),
        f"{cost.streams_served:.1f}",
        f"{100 * cost.tokens_kept:.1f}",
        f"{100 * cost.tokens_computed:.1f}",
        f"{100 * cost.flops_share:.2f}",
        f"{cost.tflops_per_s:.3g}",
        f"{cost.kv_bytes / 2**20:.1f}",
        maybe(cost.max_logit_difference, "{:.2g}"),
        maybe(cost.agreement and 100 * cost.agreement, "{:.0f}"),
    ]


def _cases(policies: str, streams: str) -> list[Case]:
    """From "all/all,replenish/none" and "1,8": `all` + `all` first, so that the others can be compared with it."""
    pairs = []
    for text in policies.split(","):
        keep, _, refresh_name = text.strip().partition("/")
        if keep not in MASK_NAMES:
            raise ConfigError(f"--policies {text!r}: use KEEP/REFRESH, KEEP one of {', '.join(MASK_NAMES)}")
        try:
            pairs.append((keep, refresh_name, Refresh.parse(refresh_name)))
        except ConfigError as error:
            raise ConfigError(f"--policies {text!r}: {error}") from None
    pairs.sort(key=lambda pair: pair[:2] != ("all", "all"))
    return [Case(*pair, count) for count in counts(streams, "--streams") for pair in pairs]
