"""`codecflow bench pipeline`: from its options to its tables and JSON line."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal, Protocol

import numpy as np
import torch

from codecflow.errors import ConfigError
from codecflow.localkafka.daemon import LocalKafka
from codecflow.messages import Question
from codecflow.tools.bench.camera_load import METADATA_LINGER_S, Load
from codecflow.tools.bench.clip_recording import (
    RecordedClip,
    check_recording,
    describe_clips,
    load_recording,
    record_clip,
    save_recording,
)
from codecflow.tools.bench.pipeline_measurement import KafkaPlace, Outcome, Place, ReplayPlace, Timing, measure
from codecflow.tools.bench.stub_engine import StubEngine, hollow_family
from codecflow.tools.report.table import print_json, print_table
from codecflow.vlm.families import Family
from codecflow.vlm.loading import choose_device, choose_dtype, load_model, set_precision
from codecflow.vlm.shapes import build_shape, shape_by_name
from codecflow.worker import sampler_host
from codecflow.worker.answering import Provenance, WindowEngine
from codecflow.worker.options import WorkerOptions
from codecflow.worker.settings import WorkerSettings

QUESTION = Question("default", "Is a person in view?", "yes-no")
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Options:
    """Command line options. `engine`: the product's, or a stub that takes `stub_ms` for each window. `warm_up`: seconds
    until windows count; None: until the windows are full."""

    clips: Sequence[Path] = ()
    streams: str | None = None
    find: bool = False
    shape: str = "codecflow-tiny"
    model: str | None = None
    engine: Literal["model", "stub"] = "model"
    stub_ms: float = 10.0
    dtype: str = "auto"
    weights: str = "auto"
    kv: str = "auto"
    device: str = "auto"
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    seconds: float = 60.0
    probe_seconds: float | None = None
    warm_up: float | None = None
    partitions: int = 8
    record: Path | None = None
    replay: Path | None = None


@dataclass(frozen=True, slots=True)
class _Bench:
    """What all runs share."""

    options: Options
    settings: WorkerSettings
    clips: list[RecordedClip]
    recording: Path
    engine: WindowEngine
    place: Place

    @property
    def stride_s(self) -> float:
        return float(self.settings.plan.stride_slots / self.settings.plan.fps)

    def run(self, streams: int, measured: float, *, stop_early: bool = False) -> Outcome:
        plan = self.settings.plan
        warm_up = self.options.warm_up
        if warm_up is None:
            warm_up = float(plan.window_slots / plan.fps) + self.stride_s
        _notice(f"{streams} streams: {warm_up + self.stride_s:g} s to warm up, {measured:g} s measured")
        load = Load(str(self.recording), streams, self.stride_s, int(time.time() * 1000))
        provenance = Provenance(self.options.worker.keep, "bench", self.engine.family.trained)
        timing = Timing(warm_up, measured, stop_early)
        found = measure(self.place, load, self.settings, self.engine, provenance, timing, _notice)
        _notice(
            f"{streams} streams: " + ("sustained" if found.sustained else "not sustained: " + "; ".join(found.reasons))
        )
        for line in dict.fromkeys(found.notices):
            _notice(f"worker: {line}")
        return found


class Runs(Protocol):
    """The part of a benchmark that `find` needs."""

    @property
    def options(self) -> Options: ...

    @property
    def stride_s(self) -> float: ...

    def run(self, streams: int, measured: float, *, stop_early: bool = False) -> Outcome: ...


def run(options: Options, locate: Callable[[str], str] = str) -> None:
    """Measures and prints. Raises ConfigError, SourceError, ModelError and KafkaError.

    `locate`: returns the hub id or folder of a model by its name. Called after all other options have been validated.
    """
    counts = _counts(options)
    settings = options.worker.settings()
    if settings.question is None:
        settings = replace(settings, question=QUESTION)
    if bool(options.clips) == (options.replay is not None):
        raise ConfigError("give a CLIP, or --replay with a file that --record wrote, not both")
    if options.record is not None and options.replay is not None:
        raise ConfigError("--record writes what clips give; --replay reads it: not both")
    if options.engine not in ("model", "stub"):
        raise ConfigError(f"--engine {options.engine!r}: use model or stub")
    if options.model is None:
        shape_by_name(options.shape)
    clips = _clips(options)
    for line in describe_clips(clips):
        _notice(line)
    if not counts:
        assert options.record is not None  # checked by _counts
        save_recording(options.record, clips)
        print_json(
            {"recording": str(options.record), "bytes": options.record.stat().st_size, "clips": _described(clips)}
        )
        return
    if settings.samplers:
        sampler_host.prepare()
    family = _family(options, locate)
    engine = StubEngine(family, options.stub_ms / 1000) if options.engine == "stub" else options.worker.engine(family)
    with _recording(options, clips) as recording, _place(options) as place:
        bench = _Bench(options, settings, clips, recording, engine, place)
        found = find(bench, counts) if options.find else [bench.run(count, options.seconds) for count in counts]
    _print_results(bench, found)


def _counts(options: Options) -> list[int]:
    """Numbers of streams; with --find, the bounds."""
    if options.streams is None:
        if options.record is not None and not options.find:
            return []
        return [1, 4096] if options.find else [1]
    try:
        counts = [int(text) for text in options.streams.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise ConfigError(f"--streams {options.streams!r}: whole numbers from 1 on are expected, separated by commas")
    if options.find and (len(counts) != 2 or counts[0] > counts[1]):
        raise ConfigError(f"--find --streams {options.streams!r}: give a lower and an upper bound, as in 10,200")
    return counts


def _clips(options: Options) -> list[RecordedClip]:
    if options.replay is not None:
        clips = load_recording(options.replay)
        check_recording(options.replay, clips)
        return clips
    return [record_clip(clip) for clip in options.clips]


@contextmanager
def _recording(options: Options, clips: Sequence[RecordedClip]) -> Iterator[Path]:
    """The file that the cameras' process reads."""
    if options.replay is not None:
        yield options.replay
        return
    with tempfile.TemporaryDirectory(prefix="codecflow-bench-") as folder:
        file = options.record or Path(folder) / "recording"
        save_recording(file, clips)
        yield file


@contextmanager
def _place(options: Options) -> Iterator[Place]:
    if options.replay is not None:
        yield ReplayPlace(options.partitions)
        return
    with LocalKafka(progress=_notice) as broker:
        yield KafkaPlace(broker, options.partitions)


def _family(options: Options, locate: Callable[[str], str]) -> Family:
    device = choose_device(options.device)
    if options.model is not None:
        return load_model(locate(options.model), options.dtype, options.device, options.weights, options.kv)
    if options.engine == "stub":
        return hollow_family(options.shape, device)
    family = build_shape(options.shape, choose_dtype(options.dtype, device), device)
    set_precision(family, options.weights, options.kv)
    return family


def find(bench: Runs, bounds: Sequence[int]) -> list[Outcome]:
    """Short runs that bisect to within 4 %, then a full-length run at the result; with fewer streams if that fails."""
    options = bench.options
    probe_s = options.probe_seconds or max(2 * bench.stride_s, 16.0)
    low, high, upper = bounds[0] - 1, bounds[1] + 1, bounds[0]
    while high - low > max(1, low // 25):
        # Double the count until a run fails.
        count = min(upper, bounds[1]) if high > bounds[1] else (low + high) // 2
        if bench.run(count, probe_s, stop_early=True).sustained:
            low, upper = count, 2 * count
        else:
            high = count
    found: list[Outcome] = []
    while low:
        found.append(bench.run(low, options.seconds))
        if found[-1].sustained:
            break
        low = min(low - 1, round(0.95 * low))
    return found


def _described(clips: Sequence[RecordedClip]) -> list[dict[str, Any]]:
    return [
        {
            "name": clip.name,
            "codec": clip.codec,
            "width": clip.width,
            "height": clip.height,
            "pictures_per_s": round(clip.rate, 3),
            "bits_per_s": round(8 * clip.bytes_per_s),
            "loop_s": clip.seconds,
        }
        for clip in clips
    ]


def figures(outcome: Outcome) -> dict[str, Any]:
    """The figures of a run."""
    first, last = outcome.samples[0], outcome.samples[-1]
    seconds = max(last.at - first.at, 1e-9)
    streams, cores = outcome.streams, os.cpu_count() or 1
    stages: dict[str, dict[str, float]] = {}
    for name, stage in last.stages.items():
        before = first.stages.get(name)
        busy = [b - a for b, a in zip(stage.busy_s, before.busy_s if before else [0.0] * 99, strict=False)]
        cpu = [b - a for b, a in zip(stage.cpu_s, before.cpu_s if before else [0.0] * 99, strict=False)]
        queues = [one.stages[name].queue for one in outcome.samples if name in one.stages]
        sizes = [one.stages[name].queue_bytes for one in outcome.samples if name in one.stages]
        stages[name] = {
            "threads": len(busy),
            "busy_share": sum(busy) / len(busy) / seconds,
            "busiest_thread_share": max(busy) / seconds,
            "cores": sum(cpu) / seconds,
            "queue_mean": mean(queues),
            "queue_max": max(queues),
            "queue_bytes_mean": mean(sizes),
            "queue_bytes_max": max(sizes),
        }
    worker_cores = (last.cpu_s - first.cpu_s) / seconds
    client_cores = (last.client_cpu_s - first.client_cpu_s) / seconds
    if stages:
        others = sum(stages[name]["cores"] for name in ("consumer", "join", "committer"))
        stages["engine"]["cores"] = max(0.0, worker_cores - client_cores - others)
        stages["consumer"]["cores"] += client_cores
        worker_cores += stages["sampler"]["cores"]
    delays, gaps = [window.delay_s for window in outcome.windows], outcome.longest_gaps
    late = max(one.cameras_late_s for one in outcome.samples)
    machine = (last.machine_busy_s - first.machine_busy_s) / seconds / cores
    counted = last.counts - first.counts
    return {
        "streams": streams,
        "sustained": outcome.sustained,
        "reasons": outcome.reasons,
        "seconds": round(seconds, 1),
        "windows": len(outcome.windows),
        "delay_p50_s": _percentile(delays, 50),
        "delay_p99_s": _percentile(delays, 99),
        "delay_max_s": max(delays, default=None),
        "streams_answered": len({window.stream for window in outcome.windows}),
        "gap_s": [gaps[0], gaps[-1]] if gaps else None,
        "windows_left_out": counted["windows-behind"],
        "bottleneck": _bottleneck(stages, machine > 0.95 and worker_cores > 0.5 * cores, late),
        "stages": stages,
        "windows_per_batch": len(outcome.windows) / max(1, last.batches - first.batches),
        "cores": worker_cores,
        "cpu_ms_per_stream_s": 1000 * worker_cores / streams,
        "rss_bytes": last.rss,
        "rss_bytes_begin": first.rss,
        "vram_bytes": last.vram,
        "kv_bytes_per_stream": max(one.kv for one in outcome.samples) / streams,
        "waiting_bytes_per_stream": mean(one.waiting for one in outcome.samples) / streams,
        "lag_max": max(one.lag for one in outcome.samples),
        "frames_per_s": counted["frames"] / seconds,
        "tokens_kept_share": counted["tokens-kept"] / max(1, counted["tokens-total"]),
        "pictures_decoded_per_s": counted["pictures-decoded"] / seconds or None,
        "cameras_cores": (last.cameras_cpu_s - first.cameras_cpu_s) / seconds,
        "cameras_late_s": late,
        "broker_cores": (last.broker_cpu_s - first.broker_cpu_s) / seconds,
        "machine_busy_share": machine,
    }


def _bottleneck(stages: dict[str, dict[str, float]], exhausted: bool, late_s: float) -> str:
    """The stage that is nearest to its limit. If the worker has exhausted the machine's CPU: the stage that uses most of
    it."""
    if not stages:
        return "unknown"
    if late_s > 1.0:
        return "cameras"
    if exhausted:
        return max(stages, key=lambda name: stages[name]["cores"])
    main = stages["consumer"]["busy_share"] + stages["join"]["busy_share"]
    shares = {name: stages[name]["busy_share"] for name in ("sampler", "engine", "committer")}
    return max({**shares, "join": main}.items(), key=lambda item: item[1])[0]


def _print_results(bench: _Bench, outcomes: Sequence[Outcome]) -> None:
    found = [figures(outcome) for outcome in outcomes]
    for one in found:
        _print_stages(one)
    options = bench.options
    sustained = [one["streams"] for one in found if one["sustained"]]
    rows = [
        (
            one["streams"],
            "yes" if one["sustained"] else "no",
            *(_seconds(one[name]) for name in ("delay_p50_s", "delay_p99_s", "delay_max_s")),
            one["bottleneck"],
            f"{one['cpu_ms_per_stream_s']:.1f}",
            f"{one['cores']:.2f}",
            f"{one['broker_cores']:.2f}",
            f"{one['cameras_cores']:.2f}",
            f"{100 * one['machine_busy_share']:.0f}",
            f"{one['rss_bytes'] / _MIB:.0f}",
            f"{one['vram_bytes'] / _MIB:.0f}",
            f"{one['kv_bytes_per_stream'] / _MIB:.1f}",
        )
        for one in found
    ]
    engine = (
        f"stub, {options.stub_ms:g} ms per window" if options.engine == "stub" else (options.model or options.shape)
    )
    plan = bench.settings.plan
    print_table(
        f"{engine}, {bench.engine.family.device}: windows of {float(plan.window_slots / plan.fps):g} s every "
        f"{bench.stride_s:g} s, {'without brokers' if options.replay else 'local Kafka'}",
        ["streams", "sustained", "p50 s", "p99 s", "max s", "nearest limit", "CPU ms/s", "cores", "broker", "cameras",
         "machine %", "RSS MiB", "VRAM MiB", "KV MiB"],
        rows,
        note=f"p50, p99, max: from the capture of a window's newest frame to its committed result; producers hold metadata "
        f"back for up to {METADATA_LINGER_S:g} s. CPU ms/s: of the worker, per stream and second; cores: of the worker in "
        f"all, of the broker, of the cameras. KV: per stream.",
    )  # fmt: skip
    print_json(
        {
            "engine": options.engine,
            "model": options.model or options.shape,
            "device": str(bench.engine.family.device),
            "dtype": str(bench.engine.family.dtype).removeprefix("torch."),
            "weights": bench.options.weights,
            "kv": bench.options.kv,
            "cores": os.cpu_count(),
            "sampler_processes": bench.settings.samplers,
            "nvdec": bench.settings.nvdec,
            "torch_threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "kafka": options.replay is None,
            "window_s": float(plan.window_slots / plan.fps),
            "stride_s": bench.stride_s,
            "fps": float(plan.fps),
            "keep": options.worker.keep,
            "refresh": options.worker.refresh,
            "clips": _described(bench.clips),
            "most_sustained": max(sustained, default=0),
            "results": [_rounded(one) for one in found],
        }
    )


def _print_stages(one: dict[str, Any]) -> None:
    rows = [
        (
            name,
            f"{stage['threads']:.0f}",
            f"{100 * stage['busy_share']:.0f}",
            f"{100 * stage['busiest_thread_share']:.0f}",
            f"{stage['cores']:.2f}",
            f"{1000 * stage['cores'] / one['streams']:.2f}",
            f"{stage['queue_mean']:.1f}",
            f"{stage['queue_max']:.0f}",
            f"{stage['queue_bytes_mean'] / _MIB:.1f}",
            f"{stage['queue_bytes_max'] / _MIB:.1f}",
        )
        for name, stage in one["stages"].items()
    ]
    decoded = one["pictures_decoded_per_s"]
    print_table(
        f"{one['streams']} streams: {'' if one['sustained'] else 'NOT '}sustained; nearest limit: {one['bottleneck']}",
        ["stage", "threads", "busy %", "busiest %", "cores", "CPU ms/s", "waits", "max", "MiB", "max MiB"],
        rows,
        note=f"{one['windows']} windows in {one['seconds']:.0f} s, {one['windows_per_batch']:.1f} per batch of the engine, "
        f"{one['frames_per_s']:.0f} frames/s, {100 * one['tokens_kept_share']:.1f} % of tokens kept"
        + ("" if decoded is None else f", {decoded:.0f} pictures/s decoded")
        + (
            ""
            if one["gap_s"] is None
            else "; longest gap between answers {:.1f} to {:.1f} s by stream".format(*one["gap_s"])
        )
        + "".join(f"; {reason}" for reason in one["reasons"])
        + ". Of the sampler: processes"
        + f". Cameras: {one['cameras_cores']:.2f} cores, at most {one['cameras_late_s']:.2f} s late"
        + (": TOO LATE, the load was not what it should be" if one["cameras_late_s"] > 1.0 else ""),
    )


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return value


def _notice(line: str) -> None:
    sys.stderr.write(f"codecflow: {line}\n")
    sys.stderr.flush()
