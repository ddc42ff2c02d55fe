"""The figures of a pipeline benchmark's runs, its tables and its JSON line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from codecflow.tools.bench.camera_load import METADATA_LINGER_S
from codecflow.tools.bench.pipeline_measurement import Outcome
from codecflow.tools.report.table import print_json, print_table

_MIB = 2**20


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


def print_outcomes(title: str, about: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Prints a table for each run, one of all of them under `title`, and a JSON line that begins with `about`."""
    found = [figures(outcome) for outcome in outcomes]
    for one in found:
        _print_stages(one)
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
    print_table(
        title,
        ["streams", "sustained", "p50 s", "p99 s", "max s", "nearest limit", "CPU ms/s", "cores", "broker", "cameras",
         "machine %", "RSS MiB", "VRAM MiB", "KV MiB"],
        rows,
        note=f"p50, p99, max: from the capture of a window's newest frame to its committed result; producers hold metadata "
        f"back for up to {METADATA_LINGER_S:g} s. CPU ms/s: of the worker, per stream and second; cores: of the worker in "
        f"all, of the broker, of the cameras. KV: per stream.",
    )  # fmt: skip
    print_json(
        {
            **about,
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
