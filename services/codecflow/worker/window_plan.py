"""Which sampled frames belong to which window, in exact arithmetic.

A slot is one position on the stream's sampling grid, 1/fps seconds wide, counted from the start of the epoch. Window k ends
with stride k and reaches back `window` seconds, so windows grow until they are full; if they are shorter than the stride,
the slots between them belong to no window.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from codecflow.errors import ConfigError
from codecflow.exact import positive
from codecflow.messages import WindowGrid

_MAX_SLOTS = 10_000_000


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Windows of `window_slots` sampled frames that advance by `stride_slots`, at `fps` frames per second."""

    window_slots: int
    stride_slots: int
    fps: Fraction

    @staticmethod
    def of(
        window_s: str | float | Fraction, stride_s: str | float | Fraction, fps: str | float | Fraction
    ) -> WindowPlan:
        """The plan for a window and a stride in seconds. Errors use the names of the command line.

        Raises ConfigError when they are not a whole number of frames.
        """
        rate = positive(fps, "--fps")
        slots = []
        for name, value in (("--window", window_s), ("--stride", stride_s)):
            seconds = positive(value, name)
            if (seconds * rate).denominator != 1:
                raise ConfigError(
                    f"{name} {value} s is not a whole number of frames at {rate} frames/s: use a multiple of {1 / rate} s"
                )
            slots.append(int(seconds * rate))
            if slots[-1] > _MAX_SLOTS:
                raise ConfigError(f"{name} {value} s holds {slots[-1]} frames; at most {_MAX_SLOTS} are allowed")
        return WindowPlan(slots[0], slots[1], rate)

    @property
    def grid(self) -> WindowGrid:
        """The plan in wire format."""
        return WindowGrid(self.fps, self.window_slots, self.stride_slots)

    def open_at(self, time: Fraction) -> int:
        """The first window that ends after `time` seconds."""
        return self.window_of(self.slot_at(time))

    def first(self, window: int) -> int:
        """First slot of a window."""
        return max(0, self.end(window) - self.window_slots)

    def end(self, window: int) -> int:
        """The slot after a window's last."""
        return (window + 1) * self.stride_slots

    def newest(self, window: int) -> int:
        """First slot of a window that is in no earlier window."""
        return max(self.first(window), window * self.stride_slots)

    def expected(self, window: int) -> int:
        """Number of frames in a complete window."""
        return self.end(window) - self.first(window)

    def window_of(self, slot: int) -> int:
        """The window that closes the stride in which `slot` lies."""
        return slot // self.stride_slots

    def used(self, slot: int) -> bool:
        """Whether any window contains this slot: always, unless windows are shorter than the stride."""
        return slot >= self.first(self.window_of(slot))

    def time(self, slot: int) -> Fraction:
        """Seconds from the start of the epoch to the beginning of a slot."""
        return slot / self.fps

    def slot_at(self, time: Fraction) -> int:
        """The slot that contains a presentation time."""
        return int(time * self.fps // 1)
