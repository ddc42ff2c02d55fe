"""What a run of the pipeline benchmark measures of the machine, twice per second, and whether memory stays flat."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import mean

import torch

from codecflow.tools.bench.camera_load import CameraProcess
from codecflow.tools.bench.pipeline_places import Place
from codecflow.worker.answering import WindowEngine
from codecflow.worker.summary import StageFigures, Summary

_HZ = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

RSS_GROWTH, RSS_SLACK = 0.03, 64 << 20
QUEUE_GROWTH, QUEUE_SLACK = 1.5, 256 << 10
"""Memory is flat if, from the first to the last quarter of the measured time, the mean of resident memory (without keys and
values, on a CPU) grows by at most 3 % + 64 MiB, and that of queues by at most half + 256 KiB per stream."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Measurements at one moment (`at`: monotonic). CPU seconds of this process, of the Kafka client's threads in it, of the
    cameras, of the broker, of the whole machine. `rss` (including sampler processes), `vram`, `kv`, `waiting` (coded
    pictures and frames): bytes. `lag`: records."""

    at: float
    stages: dict[str, StageFigures]
    cpu_s: float
    client_cpu_s: float
    rss: int
    vram: int
    kv: int
    waiting: int
    lag: int
    batches: int
    counts: Counter[str]
    cameras_cpu_s: float
    cameras_late_s: float
    broker_cpu_s: float
    machine_busy_s: float


def take_sample(summary: Summary, cameras: CameraProcess, place: Place, engine: WindowEngine) -> Sample:
    load = cameras.update()
    counts: Counter[str] = Counter()
    for stream in list(summary.streams.values()):
        counts.update(stream)
    device = engine.family.device
    now = time.monotonic()
    return Sample(
        at=now,
        stages=summary.stages,
        cpu_s=time.process_time(),
        client_cpu_s=_client_cpu_s(),
        rss=int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE + summary.sampler_bytes,
        vram=torch.cuda.memory_reserved(device) if device.type == "cuda" else 0,
        kv=summary.kv_bytes,
        waiting=summary.queue_bytes + summary.frame_bytes,
        lag=summary.lag,
        batches=summary.batches,
        counts=counts,
        cameras_cpu_s=load.cpu_s,
        cameras_late_s=load.late_s,
        broker_cpu_s=place.broker_cpu_s(),
        machine_busy_s=_machine_busy_s(),
    )


def _client_cpu_s() -> float:
    """CPU seconds of the Kafka client's own threads."""
    found = 0.0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            text = (task / "stat").read_text()
            name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            if name.startswith("rdk:"):
                found += (int(rest[11]) + int(rest[12])) / _HZ
    return found


def _machine_busy_s() -> float:
    """CPU seconds of everything that runs on this machine, all cores together."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _HZ


def growth(samples: Sequence[Sample], streams: int, on_cpu: bool) -> list[str]:
    """What has grown from the first to the last quarter of the measured time."""
    quarter = max(1, len(samples) // 4)
    begin, end = slice(quarter), slice(-quarter, None)
    pool = accumulate((one.kv if on_cpu else 0 for one in samples), max)  # a CPU's pages stay resident once used
    resident = [one.rss - kv for one, kv in zip(samples, pool, strict=True)]
    waiting = [one.waiting for one in samples]
    found = []
    for what, values, factor, slack in (
        ("memory grows", resident, 1 + RSS_GROWTH, RSS_SLACK),
        ("queues grow", waiting, QUEUE_GROWTH, QUEUE_SLACK * streams),
    ):
        before, after = mean(values[begin]), mean(values[end])
        if after > factor * before + slack:
            found.append(f"{what}: {before / 2**20:.0f} MiB, then {after / 2**20:.0f} MiB")
    return found
