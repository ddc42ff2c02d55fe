"""Sampled frames of one epoch, cut into windows, and where a reader must begin to rebuild the next one.

Knows nothing of decoding or Kafka: frames go in with their slots, closed windows come out once each, in order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction

from codecflow.vlm.work import Frame

from .windows import WindowPlan

Offsets = tuple[int, int]
"""Offsets of a keyframe's records: on the packets topic and on the metadata topic."""


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window: `frames` are those that no window before it handed out, oldest first.

    `captured_at_ms`: wall clock of the newest frame's capture. `rebuilt`: a replay put it together without the frames before
    it, and some of its frames still are from that replay. `seconds`: what it took so far, by stage.
    """

    index: int
    frames: tuple[Frame, ...]
    captured_at_ms: int
    rebuilt: bool
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """How far an epoch has come once `window` (None: nothing to answer) is emitted: `next_window` is the oldest open one and
    can be rebuilt from `rewind`. `ended`: nothing more will come of this epoch."""

    epoch: int
    next_window: int
    rewind: Offsets
    window: Window | None = None
    ended: bool = False


class WindowFeed:
    """The windows of one epoch.

    `memory_s`: how far before a window's start frames must be seen for its keep masks to come out the same. `rewind`: where
    a reader that knows nothing of this epoch must begin. `next_window`: the first window to hand out; another worker has
    answered those before it.
    """

    def __init__(self, plan: WindowPlan, memory_s: Fraction, epoch: int, rewind: Offsets, next_window: int = 0) -> None:
        self.epoch = epoch
        self.next_window = next_window
        self._skipped = 0
        self._plan, self._memory_s = plan, memory_s
        self._rewind = rewind
        self._keyframes: deque[tuple[Fraction, Offsets]] = deque()
        self._frames: list[tuple[Frame, int]] = []
        self._last_slot = -1
        self._resumed = next_window > 0
        self._rebuilt_before: int | None = None if self._resumed else 0

    def keyframe(self, time: Fraction, offsets: Offsets) -> None:
        """A keyframe shown at `time`, from which decoding can begin."""
        self._keyframes.append((time, offsets))

    def wants(self, slot: int) -> bool:
        """Whether a frame in this slot is of use: of some window, and not behind one that came already."""
        return slot > self._last_slot and self._plan.used(slot)

    def frame(self, frame: Frame, captured_at_ms: int) -> list[Step]:
        """Take the frame of a wanted slot in; the windows that this closes."""
        steps = self.close_before(frame.index)
        self._last_slot = frame.index
        if frame.index >= self._plan.first(self.next_window):  # a replay begins earlier
            self._frames.append((frame, captured_at_ms))
        return steps + self.close_before(frame.index + 1)

    def close_before(self, slot: int) -> list[Step]:
        """Nothing more will come for the slots before `slot`: the windows that this closes."""
        steps = []
        target = slot // self._plan.stride_slots  # the first window that is still open then
        while self.next_window < target:
            steps.append(self._close(self.next_window) if self._frames else self._skip_to(target))
        return steps

    def leave(self, offsets: Offsets) -> Step:
        """The stream is left as it is: whoever takes it up again begins at `offsets`, and lacks what is open now."""
        return Step(self.epoch, self.next_window, offsets)

    def take_skipped(self) -> int:
        """Windows not answered since the last call, for their newest stride had no frame."""
        skipped, self._skipped = self._skipped, 0
        return skipped

    def _close(self, index: int) -> Step:
        first, newest = self._plan.first(index), self._plan.newest(index)
        self._frames = [(frame, at) for frame, at in self._frames if frame.index >= first]
        if not self._frames or self._frames[-1][0].index < newest:
            return self._skip_to(index + 1)
        if self._rebuilt_before is None:
            self._rebuilt_before = self._plan.end(index) if first > 0 else 0
        frames, captured_at_ms = tuple(frame for frame, _ in self._frames), self._frames[-1][1]
        self._frames = []
        return self._advance(index + 1, Window(index, frames, captured_at_ms, first < self._rebuilt_before))

    def _skip_to(self, window: int) -> Step:
        if self._last_slot >= 0 or self._resumed:  # otherwise the stream was joined in mid-epoch and has missed nothing
            self._skipped += window - self.next_window
        return self._advance(window, None)

    def _advance(self, next_window: int, window: Window | None) -> Step:
        self.next_window = next_window
        needed = self._plan.time(self._plan.first(next_window)) - self._memory_s
        while self._keyframes and self._keyframes[0][0] <= needed:
            self._rewind = self._keyframes.popleft()[1]
        return Step(self.epoch, next_window, self._rewind, window)
