"""What becomes of each frame's tokens in the KV of a stream's windows, from the counts of what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from codecflow.errors import ConfigError
from codecflow.worker.windows import WindowPlan

REFRESHES = ("none", "anchors", "all")
"""Refresh policies whose choice follows from the frames alone; `budget` chooses by what the model computes."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What was decided of one sampled frame, in tokens. `motion_kept`: what the policy `motion` would keep."""

    slot: int
    time_s: float
    total: int
    kept: int
    compared: int
    certified: int
    anchor: bool
    motion_kept: int


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """One window's KV in tokens, by what happens to them when it is answered. Lists run over its frames and those evicted.

    `new`: computed for the first time. `refreshed`: computed again, in context. `reused`: taken as they are. `evicted`: left
    the window. `full`: what keep `all` with refresh `all` computes.
    """

    window: int
    start_s: float
    end_s: float
    times_s: list[float]
    new: list[int]
    refreshed: list[int]
    reused: list[int]
    evicted: list[int]
    full: int

    @property
    def computed(self) -> int:
        return sum(self.new) + sum(self.refreshed)


def windows_of(records: Sequence[FrameRecord], plan: WindowPlan, refresh: str) -> list[WindowRecord]:
    """The windows that the frames complete, oldest first.

    Refresh `anchors` begins once something has left the window: until then all have the context that they were computed in.
    """
    windows: list[WindowRecord] = []
    last = records[-1].slot + 1
    window = 0
    while plan.end(window) <= last:
        first, newest, end = plan.first(window), plan.newest(window), plan.end(window)
        before = plan.first(window - 1) if window else 0
        held = [record for record in records if before <= record.slot < end and plan.used(record.slot)]
        slid = first > before
        rows: dict[str, list[int]] = {name: [] for name in ("new", "refreshed", "reused", "evicted")}
        for record in held:
            if record.slot < first:
                fate = "evicted"
            elif record.slot >= newest:
                fate = "new"
            else:
                again = refresh == "all" or (refresh == "anchors" and record.anchor and slid)
                fate = "refreshed" if again else "reused"
            for name, tokens in rows.items():
                tokens.append(record.kept if name == fate else 0)
        windows.append(
            WindowRecord(
                window=window,
                start_s=float(plan.time(first)),
                end_s=float(plan.time(end)),
                times_s=[float(Fraction(record.slot) / plan.fps) for record in held],
                full=sum(record.total for record in held if record.slot >= first),
                **rows,
            )
        )
        window += 1
    if not windows:
        raise ConfigError(
            f"the clip ends before its first window is answered, {float(plan.time(plan.end(0))):g} s: use a shorter --stride"
        )
    return windows
