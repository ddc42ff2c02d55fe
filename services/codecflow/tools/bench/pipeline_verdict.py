"""Whether a run of the pipeline benchmark is sustained: every window is answered before the next one is due."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from codecflow.messages import Result, decode_result
from codecflow.tools.bench.camera_load import Load


@dataclass(frozen=True, slots=True)
class Window:
    """An answered window: when its newest frame was captured and when its result was committed, in seconds since 1970."""

    stream: str
    index: int
    captured_s: float
    committed_s: float
    result: Result

    @property
    def delay_s(self) -> float:
        return self.committed_s - self.captured_s


class Judge:
    """Whether every window captured from `first_s` to `last_s` (since 1970) is answered before the next one is due."""

    def __init__(self, load: Load, first_s: float, last_s: float) -> None:
        self.within: list[Window] = []
        self._load, self._first_s, self._last_s = load, first_s, last_s
        self._newest: dict[str, float] = {}  # capture time of a stream's newest answered window
        self._taken = 0

    def take(self, committed: Sequence[tuple[float, bytes, bytes]]) -> None:
        for at, key, value in committed[self._taken :]:
            self._taken += 1
            result = decode_result(key, value)
            captured_s = result.captured_at_ms / 1000
            self._newest[result.stream] = max(self._newest.get(result.stream, 0.0), captured_s)
            if self._first_s <= captured_s < self._last_s:
                self.within.append(Window(result.stream, result.window, captured_s, at, result))

    def failed(self, now_s: float) -> bool:
        """Whether it is already certain that the run is not sustained."""
        return now_s > self._first_s and bool(self.reasons(now_s))

    def reasons(self, now_s: float) -> list[str]:
        """Why the run is not sustained, as far as known at `now_s`."""
        stride_s = self._load.stride_s
        found = []
        by_stream: dict[str, list[Window]] = defaultdict(list)
        for window in self.within:
            by_stream[window.stream].append(window)
        missing = sum(
            len(range(windows[0].index, windows[-1].index + 1)) - len({window.index for window in windows})
            for windows in by_stream.values()
        )
        # One is captured every stride, and must be answered within the next stride.
        late = late_windows = 0
        for number in range(self._load.count):
            newest = max(self._newest.get(f"camera-{number}", 0.0), self._first_s - stride_s)
            overdue = (min(now_s - stride_s, self._last_s) - newest) / stride_s
            if overdue > 1.25:
                late += 1
                late_windows += int(overdue)
        if missing:
            found.append(f"{missing} windows were left out")
        if late:
            found.append(f"{late_windows} windows of {late} streams were not answered in time")
        slow = [window.delay_s for window in self.within if window.delay_s >= stride_s]
        if slow:
            found.append(
                f"{len(slow)} of {len(self.within)} windows were answered {max(slow):.1f} s after capture; the next one is "
                f"due after {stride_s:g} s"
            )
        errors = Counter(window.result.error.code for window in self.within if window.result.error is not None)
        found += [f"{count} windows have the error {code}" for code, count in errors.items()]
        if restarted := sum(window.result.restarted for window in self.within):
            found.append(f"{restarted} windows were restarted")
        return found
