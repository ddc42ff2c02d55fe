"""Worker settings: windows and masks, limits on memory and waiting, and handling of streams that fall behind."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from codecflow.codec.pictures import MAX_PIXELS
from codecflow.errors import ConfigError
from codecflow.exact import positive
from codecflow.keep.config import KeepConfig
from codecflow.messages import Question

from .window_plan import WindowPlan


def available_cores() -> int:
    """Cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_samplers(nvdec: bool = False) -> int:
    """Number of sampler processes: one core is left for reading, the engine and committing. With NVDEC at most 12, since
    each has its own CUDA context of about 0.5 GB. They need memory files, which only Linux has."""
    if not hasattr(os, "memfd_create"):
        return 0
    return min(max(1, available_cores() - 1), 12 if nvdec else 1 << 10)


def default_buffer_bytes() -> int:
    """A quarter of the memory available to this process (cgroup or machine), at least 1 GiB."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no cgroup v2, or "max"
        machine = min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(1 << 30, machine // 4)


DEFAULT_REUSE_S = "64"
"""Seconds for which an answer may be repeated while its window is unchanged: 8 of the default windows. This saves seven of
eight questions about a still scene; longer periods save little more (docs/explanation/evaluation.md)."""


def reuse_slots(text: str, fps: Fraction) -> int:
    """Sampled frames in `text` seconds, 0 for none. Raises ConfigError."""
    if text.strip() == "0":
        return 0
    return max(1, int(positive(text, "--reuse") * fps))


@dataclass(frozen=True, slots=True)
class WhenBehind:
    """What happens to a live stream that is answered later than it is captured.

    `wait`: every window is answered, however late. `skip`: pictures older than `after_s` seconds are skipped up to the
    newest keyframe, also while a window of the stream has waited for the engine for longer than that. `thin`: while pictures
    are older than `after_s` seconds, every second sampled frame is left out and every second window is not answered.
    Pictures that are not live (files published faster than real time) always wait.
    """

    policy: Literal["wait", "skip", "thin"] = "skip"
    after_s: float = 60.0

    @staticmethod
    def parse(text: str) -> WhenBehind:
        """Parses `wait`, `skip`, `skip=SECONDS`, `thin` or `thin=SECONDS`. Raises ConfigError on anything else."""
        name, equals, seconds = text.partition("=")
        if text == "wait":
            return WhenBehind("wait")
        if name not in ("skip", "thin") or (equals and not seconds):
            raise ConfigError(f"--when-behind {text!r}: use wait, skip=SECONDS or thin=SECONDS")
        after_s = float(positive(seconds, "--when-behind")) if equals else 60.0 if name == "skip" else 10.0
        return WhenBehind("skip" if name == "skip" else "thin", after_s)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on a worker's memory and waiting times.

    `buffer_bytes`: coded pictures and sampled frames of all streams together, half for each. `stream_bytes`: coded pictures
    of one stream that wait for their metadata or for the sampler; `pictures`, `documents`: packets and metadata of one
    stream that wait for each other. `windows`: closed windows of one stream that wait for the engine.

    `partner_s`: a record is given up if its counterpart has not come this long after the stream's newest record although the
    other topic was read. `idle_s`: a stream without records for this long no longer holds back its partition's offsets, and
    its memory is released; when it returns, it starts at its next keyframe. `silent_s`: a stream without records for this
    long causes an event.
    """

    buffer_bytes: int = 1 << 30
    stream_bytes: int = 32 << 20
    pictures: int = 2_000
    documents: int = 4_000
    windows: int = 2
    partner_s: float = 60.0
    idle_s: float = 600.0
    silent_s: float = 30.0

    @staticmethod
    def within(buffer_bytes: int, idle_s: float = 600.0, silent_s: float = 30.0) -> Limits:
        """Limits for a total buffer of this size: no stream may fill more than an eighth of it."""
        stream_bytes = min(32 << 20, buffer_bytes // 8)
        return Limits(buffer_bytes=buffer_bytes, stream_bytes=stream_bytes, idle_s=idle_s, silent_s=silent_s)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker answers streams.

    `plan`: windows. `keep`: which tokens are encoded; its fps is the plan's. `question`: asked of every stream without a
    description. `samplers`: sampler processes; 0: everything runs in this one. `nvdec`: decode on the GPU where its samples
    are identical. `until_end`: stop once every stream that was seen has ended and is answered. `reuse_slots`: for how many
    sampled frames an answer may be repeated while the window is unchanged (0: never). `stuck_after_s`: how long a loop or a
    thread may be busy with one thing before all stacks are dumped, longer than a transaction or a silent broker may take; a
    sampler process that is busy with one picture for this long is killed. `max_pixels`: streams with larger pictures are set
    aside.
    """

    plan: WindowPlan
    keep: KeepConfig
    question: Question | None = None
    until_end: bool = False
    samplers: int = field(default_factory=default_samplers)
    nvdec: bool = False
    when_behind: WhenBehind = field(default_factory=WhenBehind)
    limits: Limits = field(default_factory=Limits)
    reuse_slots: int = 0
    stuck_after_s: float = 180.0
    max_pixels: int = MAX_PIXELS
