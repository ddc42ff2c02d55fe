"""The epoch that a stream's sampler is in: its sampled pictures, frames and windows, and its clock."""

from __future__ import annotations

from collections import deque
from fractions import Fraction

from codecflow.codec.samples import SampleTrack
from codecflow.messages import Zone

from .frame_maker import FrameMaker
from .frameless import Frameless
from .sampler_events import Recovery
from .windows import WindowAssembly


class SampledEpoch:
    """`fps`: slots per second of its sampling grid.

    `change`: zones that take effect from a slot on. `last_slot`: the newest slot seen in records. `next_seq`: of the picture
    that should come next. `recent`: slots of the newest pictures, in decode order. `waiting_since_ms`: since when no picture
    could be decoded because no keyframe came. `aside_until`: presentation time until which nothing is decoded. `recovery`:
    what sets that time, once the time of the picture after it is known.
    """

    def __init__(self, windows: WindowAssembly, track: SampleTrack, frames: FrameMaker, fps: Fraction) -> None:
        self.windows = windows
        self.track = track
        self.frames = frames
        self.change: tuple[int, tuple[Zone, ...]] | None = None
        self.last_slot = -1
        self.next_seq: int | None = None
        self.recent: deque[int] = deque()
        self.waiting_since_ms: int | None = None
        self.aside_until: Fraction | None = None
        self.recovery: Recovery | None = None
        self.frameless = Frameless()
        self._fps = fps
        self._clock: tuple[int, Fraction] | None = None  # start_pts and time base, once metadata has come
        self._slots = (0, 1)  # how many slots correspond to how many units of the time base

    def set_clock(self, start_pts: int, time_base: Fraction) -> None:
        """Sets the epoch's time parameters, from metadata."""
        if self._clock is None or self._clock[0] != start_pts or self._clock[1] is not time_base:
            self._clock = start_pts, time_base
            slots = time_base * self._fps
            self._slots = slots.numerator, slots.denominator

    def time(self, pts: int) -> Fraction | None:
        """Presentation time in seconds since the start of the epoch. None before the clock is set."""
        return None if self._clock is None else (pts - self._clock[0]) * self._clock[1]

    def slot(self, pts: int) -> int | None:
        """The slot that contains it. Integer arithmetic: this runs for every picture."""
        slots, units = self._slots
        return None if self._clock is None else (pts - self._clock[0]) * slots // units
