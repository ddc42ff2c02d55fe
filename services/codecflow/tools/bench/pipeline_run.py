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
from typing import Any, Literal, Protocol

import torch

from codecflow.errors import ConfigError
from codecflow.localkafka.daemon import LocalKafka
from codecflow.messages import Question
from codecflow.tools.bench.camera_load import Load
from codecflow.tools.bench.clip_recording import (
    RecordedClip,
    check_recording,
    describe_clips,
    load_recording,
    record_clip,
    save_recording,
)
from codecflow.tools.bench.pipeline_measurement import Outcome, Timing, measure
from codecflow.tools.bench.pipeline_places import KafkaPlace, Place, ReplayPlace
from codecflow.tools.bench.pipeline_report import print_outcomes
from codecflow.tools.bench.stub_engine import StubEngine, hollow_family
from codecflow.tools.report.table import print_json
from codecflow.vlm.families import Family
from codecflow.vlm.loading import choose_device, choose_dtype, load_model, set_precision
from codecflow.vlm.shapes import build_shape, shape_by_name
from codecflow.worker import sampler_host
from codecflow.worker.answering import Provenance, WindowEngine
from codecflow.worker.options import WorkerOptions
from codecflow.worker.settings import WorkerSettings

QUESTION = Question("default", "Is a person in view?", "yes-no")


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


def _print_results(bench: _Bench, outcomes: Sequence[Outcome]) -> None:
    options, settings, plan, family = bench.options, bench.settings, bench.settings.plan, bench.engine.family
    engine = (
        f"stub, {options.stub_ms:g} ms per window" if options.engine == "stub" else (options.model or options.shape)
    )
    window_s = float(plan.window_slots / plan.fps)
    where = "without brokers" if options.replay else "local Kafka"
    print_outcomes(
        f"{engine}, {family.device}: windows of {window_s:g} s every {bench.stride_s:g} s, {where}",
        {
            "engine": options.engine,
            "model": options.model or options.shape,
            "device": str(family.device),
            "dtype": str(family.dtype).removeprefix("torch."),
            "weights": options.weights,
            "kv": options.kv,
            "cores": os.cpu_count(),
            "sampler_processes": settings.samplers,
            "nvdec": settings.nvdec,
            "torch_threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "kafka": options.replay is None,
            "window_s": window_s,
            "stride_s": bench.stride_s,
            "fps": float(plan.fps),
            "keep": options.worker.keep,
            "refresh": options.worker.refresh,
            "clips": _described(bench.clips),
        },
        outcomes,
    )


def _notice(line: str) -> None:
    sys.stderr.write(f"codecflow: {line}\n")
    sys.stderr.flush()
