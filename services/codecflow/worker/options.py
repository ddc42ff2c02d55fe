"""A worker's settings and engine from its options, built in one place for the command and for its benchmark.

Errors are found before torch and transformers are imported, which takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from codecflow.codec.nvdec import use_nvdec
from codecflow.codec.pictures import MAX_PIXELS
from codecflow.errors import ConfigError
from codecflow.keep.config import KeepConfig, parse_coverage
from codecflow.messages import Question

from .settings import (
    DEFAULT_REUSE_S,
    Limits,
    WhenBehind,
    WorkerSettings,
    default_buffer_bytes,
    default_samplers,
    reuse_slots,
)
from .window_plan import WindowPlan

if TYPE_CHECKING:
    from codecflow.vlm.engine import Engine
    from codecflow.vlm.families import Family


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """As on the command line of `codecflow worker`; None is the default that its help describes. `memory`, `buffer`: GiB."""

    window: str = "40"
    stride: str = "8"
    fps: str = "2"
    keep: str = "replenish"
    refresh: str = "none"
    coverage: str | None = None
    question: str | None = None
    yes_no: bool = False
    memory: float | None = None
    idle_s: float = 600.0
    silent_s: float = 30.0
    samplers: int | None = None
    decode: str = "auto"
    buffer: float | None = None
    when_behind: str = "skip=60"
    reuse: str = DEFAULT_REUSE_S
    until_end: bool = False
    max_pixels: int = MAX_PIXELS

    def settings(self) -> WorkerSettings:
        """Raises ConfigError on any invalid option."""
        plan = WindowPlan.of(self.window, self.stride, self.fps)
        kind, period_s, slack_s = parse_coverage(self.coverage, plan.window_slots / plan.fps, plan.fps)
        if self.yes_no and self.question is None:
            raise ConfigError("--yes-no requires --question")
        default = None
        if self.question is not None:
            default = Question("default", self.question, "yes-no" if self.yes_no else "text")
        nvdec = use_nvdec(self.decode)
        settings = WorkerSettings(
            plan,
            KeepConfig(self.keep, plan.fps, kind, period_s, slack_s),  # type: ignore[arg-type]  # it checks the name
            question=default,
            until_end=self.until_end,
            max_pixels=self.max_pixels,
            samplers=default_samplers(nvdec) if self.samplers is None else self.samplers,
            nvdec=nvdec,
            when_behind=WhenBehind.parse(self.when_behind),
            reuse_slots=reuse_slots(self.reuse, plan.fps),
            limits=Limits.within(
                default_buffer_bytes() if self.buffer is None else int(self.buffer * 2**30), self.idle_s, self.silent_s
            ),
        )
        from codecflow.vlm.refresh import Refresh

        Refresh.parse(self.refresh)
        return settings

    def engine(self, family: Family) -> Engine:
        """The configured engine. Raises ConfigError."""
        from codecflow.vlm.engine import Engine
        from codecflow.vlm.refresh import Refresh

        plan = WindowPlan.of(self.window, self.stride, self.fps)
        return Engine(
            family,
            refresh=Refresh.parse(self.refresh),
            background=parse_coverage(self.coverage, plan.window_slots / plan.fps, plan.fps)[0] == "background",
            # A stream is not idle between two windows of a long stride.
            idle_after_s=max(60.0, 3 * float(plan.stride_slots / plan.fps)),
            memory_bytes=None if self.memory is None else int(self.memory * 2**30),
        )
