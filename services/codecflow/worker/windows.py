"""Windows: the assembly of an epoch's frames, by the slots of a plan (window_plan.py).

Independent of decoding and Kafka: frames go in with their slots, steps come out once each, in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codecflow.messages import ResultError, StreamState, ZonesInForce
from codecflow.messages.limits import MAX_INT32

from .resume import Offsets, Rewind
from .window_plan import WindowPlan

if TYPE_CHECKING:
    from codecflow.vlm.work import Frame

_LONGEST_GAP_S = 86_400
"""Windows are not counted in longer gaps: a recording may resume years later, or a record may claim that."""


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window of one stream, on its way from the sampler to the engine. It holds nothing from before the slot
    `since`, at which zones were changed.

    `frames`: those that no earlier window handed out, oldest first. Where tokens outlive their frames, this includes frames
    older than the window that hold the newest token of some cell. `captured_at_ms`: wall clock of the newest frame's
    capture. `expected`: sampled frames that the window would hold if nothing had been lost. `restarted`: some of its frames
    were read again after a take-over, so that the context of older ones is missing. `skipped`: windows left out right before
    this one because the worker was behind. `seconds`: time spent so far, by stage. `pictures`: `published` and `decoded`
    since the previous window. `error`: why it cannot be answered. `trace`: W3C trace context of its newest frame's picture,
    if any; `closed_at_s`: wall clock of its closing, then.
    """

    stream: str
    epoch: int
    index: int
    frames: tuple[Frame, ...]
    captured_at_ms: int
    expected: int
    restarted: bool = False
    skipped: int = 0
    since: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)
    error: ResultError | None = None
    trace: str | None = None
    closed_at_s: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of its frames' pixels."""
        return sum(frame_bytes(frame) for frame in self.frames)


@dataclass(frozen=True, slots=True)
class Step:
    """How far a stream is once `window` (None: there is nothing to answer) is emitted. `last`: the stream produces nothing
    more until it is opened again. `nbytes`: of its frames' pixels."""

    state: StreamState
    window: Window | None = None
    last: bool = False
    nbytes: int = 0


def frame_bytes(frame: Frame) -> int:
    """Bytes of a frame's pixels."""
    return 0 if frame.patches is None else frame.patches.nbytes


class WindowAssembly:
    """The windows of one epoch.

    `memory_s`: how far before a window's start frames must be seen for its keep masks to be reproduced. `rewind`: where a
    reader without state of this epoch must start. `resume`: how far this epoch was answered before, by any worker.

    `background`: tokens outlive their frames, so that frames older than the window that hands them out matter.

    `trouble` is set by the owner while there are no frames: strides that close without a frame then become windows with this
    error. `thin`: every second window is left out, its frames go into the next one.
    """

    def __init__(
        self,
        plan: WindowPlan,
        memory_s: Fraction,
        stream: str,
        epoch: int,
        rewind: Offsets,
        resume: StreamState | None = None,
        *,
        background: bool = False,
    ) -> None:
        self.stream, self.epoch = stream, epoch
        self.next_window = 0 if resume is None else plan.open_at(resume.answered_until)
        self.trouble: ResultError | None = None
        self.thin = False
        self.nbytes = 0
        """Bytes of the pixels of frames that wait for their window to close."""
        self.without_frames = 0
        """Windows that were not answered because their newest stride had no frame."""
        self.behind = 0
        """Windows that were not answered because the worker was behind."""
        self.zones: ZonesInForce | None = None if resume is None else resume.zones
        self.since = 0
        """The slot before which frames are no longer usable: zones were changed there."""
        self._plan, self._memory_s = plan, memory_s
        self._rewind = Rewind(rewind)
        self._frames: list[tuple[Frame, int]] = []
        self._outlived = Outlived() if background else None
        self._last_slot = -1
        self._resumed = resume is not None
        self._rebuilt_before: int | None = None if self._resumed else 0
        self._behind_now = False  # strides that close without a frame were skipped
        self._behind_since = 0 if resume is None else resume.skipped  # left out since the last window for being behind
        self._captured_at_ms = 0
        self._presence = _Presence()

    def keyframe(self, time: Fraction, offsets: Offsets) -> None:
        """A keyframe shown at `time`, at which decoding can start."""
        self._rewind.keyframe(time, offsets)

    def sent(self, slot: int, captured_at_ms: int, lost: bool) -> None:
        """The camera sent a picture that is shown in `slot`; with `lost`, others between it and the newest one before are
        lost."""
        self._captured_at_ms = captured_at_ms or self._captured_at_ms
        self._presence.add(slot, lost)

    def wants(self, slot: int) -> bool:
        """Whether a frame in this slot is needed: by some window, and not older than one already received."""
        return slot > self._last_slot and slot >= self.since and self._plan.used(slot) and not (self.thin and slot % 2)

    def change_zones(self, digest: int, since: Fraction) -> None:
        """From presentation time `since` on other zones are in force; earlier frames, which may show what is hidden now, are
        discarded. All windows that end by then are closed."""
        self.zones = ZonesInForce(digest, since)
        self.since = ceil(since * self._plan.fps)
        self._frames = [(frame, at) for frame, at in self._frames if frame.index >= self.since]
        if self._outlived is not None:
            self._outlived = Outlived()
        self._update_nbytes()

    def frame(self, frame: Frame, captured_at_ms: int) -> list[Step]:
        """Add the frame of a wanted slot; returns the windows that this closes."""
        steps = self.close_before(frame.index)
        self._last_slot = frame.index
        # After a take-over the first frames are older than the first window to answer: they only rebuild the keep state and
        # the background.
        if frame.index >= self._plan.first(self.next_window):
            self._frames.append((frame, captured_at_ms))
        elif self._outlived is not None:
            self._outlived.add(frame)
        self._update_nbytes()
        return steps + self.close_before(frame.index + 1)

    def close_before(self, slot: int) -> list[Step]:
        """Nothing more will come for the slots before `slot`; returns the windows that this closes."""
        steps = []
        target = slot // self._plan.stride_slots  # the first window that is still open then
        while self.next_window < target:
            steps.append(self._close(self.next_window) if self._frames else self._leave_out(target))
        return steps

    def skip(self, offsets: Offsets | None) -> None:
        """The worker is behind: pictures were skipped, and the next one is the keyframe at `offsets` (None: the epoch's
        end).

        A successor starts there: earlier frames are no longer needed.
        """
        self._behind_now = True
        self._take_frames()
        if offsets is not None:
            self._rewind = Rewind(offsets)

    def leave(self, offsets: Offsets) -> Step:
        """The stream is suspended: it continues at `offsets`, without what is open now."""
        return Step(self._state(offsets), last=True)

    def end(self, offsets: Offsets) -> Step:
        """The epoch is over."""
        return Step(self._state(offsets, ended=True))

    def begin(self) -> Step:
        """From now on a successor starts here."""
        return Step(self._state(self._rewind.offsets))

    def _close(self, index: int) -> Step:
        plan = self._plan
        first, newest = max(plan.first(index), self.since), plan.newest(index)
        if self._frames and self._frames[0][0].index < first:
            if self._outlived is not None:
                for frame, _ in self._frames:
                    if frame.index < first:
                        self._outlived.add(frame)
            self._frames = [(frame, at) for frame, at in self._frames if frame.index >= first]
            self._update_nbytes()
        if not self._frames or self._frames[-1][0].index < newest:
            return self._leave_out(index + 1)
        if self.thin and index % 2:
            self._skipped(1)
            return self._advance(index + 1, None)
        if self._rebuilt_before is None:
            self._rebuilt_before = plan.end(index) if first > 0 else 0
        captured_at_ms = self._frames[-1][1]
        frames = self._take_frames()
        return self._advance(
            index + 1,
            Window(
                self.stream,
                self.epoch,
                index,
                frames,
                captured_at_ms,
                self._presence.expected(first, plan.end(index)),
                first < self._rebuilt_before,
                self._take_behind(),
                self.since,
            ),
        )

    def _take_frames(self) -> tuple[Frame, ...]:
        """The waiting frames, which are removed."""
        older = [] if self._outlived is None else self._outlived.take()
        frames = (*older, *(frame for frame, _ in self._frames))
        self._frames, self.nbytes = [], 0
        return frames

    def _update_nbytes(self) -> None:
        self.nbytes = sum(frame_bytes(frame) for frame, _ in self._frames)
        self.nbytes += 0 if self._outlived is None else self._outlived.nbytes

    def _leave_out(self, until: int) -> Step:
        """Leave out the windows before `until`, which have no frame in their newest stride."""
        count = until - self.next_window
        if self._behind_now:
            self._skipped(self._of_a_day(count))
        elif self.trouble is not None:
            index = until - 1
            first, end = self._plan.first(index), self._plan.end(index)
            self.without_frames += self._of_a_day(count - 1)
            expected = self._presence.expected(first, end)
            skipped = self._take_behind()
            return self._advance(
                until,
                Window(
                    self.stream,
                    self.epoch,
                    index,
                    (),
                    self._captured_at_ms,
                    expected,
                    skipped=skipped,
                    error=self.trouble,
                ),
            )
        elif self._last_slot >= 0 or self._resumed:  # otherwise the stream was joined mid-epoch and has missed nothing
            self.without_frames += self._of_a_day(count)
        return self._advance(until, None)

    def _of_a_day(self, windows: int) -> int:
        return min(windows, int(_LONGEST_GAP_S * self._plan.fps) // self._plan.stride_slots + 1)

    def _skipped(self, windows: int) -> None:
        """Left out because the worker was behind."""
        self.behind += windows
        self._behind_since = min(self._behind_since + windows, MAX_INT32)

    def _take_behind(self) -> int:
        count, self._behind_since, self._behind_now = self._behind_since, 0, False
        return count

    def _advance(self, next_window: int, window: Window | None) -> Step:
        self.next_window = next_window
        first = self._plan.first(next_window)
        self._presence.forget_before(first)
        self._rewind.advance(self._plan.time(first) - self._memory_s)
        return Step(self._state(self._rewind.offsets), window, nbytes=0 if window is None else window.nbytes)

    def _state(self, offsets: Offsets, ended: bool = False) -> StreamState:
        answered_until = self._plan.time(self.next_window * self._plan.stride_slots)
        return StreamState(
            self.stream,
            self.epoch,
            answered_until,
            self._plan.grid,
            *offsets,
            ended=ended,
            zones=self.zones,
            skipped=self._behind_since,
        )


class Outlived:
    """Frames that left the window before they were handed out, kept as long as one of their tokens is the newest of its
    cell."""

    def __init__(self) -> None:
        self._frames: list[tuple[Frame, npt.NDArray[np.bool_]]] = []

    @property
    def nbytes(self) -> int:
        return sum(frame_bytes(frame) for frame, _ in self._frames)

    def add(self, frame: Frame) -> None:
        """Add a frame newer than all earlier ones."""
        if not frame.keep.any():
            return
        still = [(one, newest & ~frame.keep) for one, newest in self._frames if one.size == frame.size]
        self._frames = [(one, newest) for one, newest in still if newest.any()]
        self._frames.append((frame, frame.keep))

    def take(self) -> list[Frame]:
        frames, self._frames = [frame for frame, _ in self._frames], []
        return frames


class _Presence:
    """Slots in which a camera sent a picture, according to its records: a slow camera leaves slots empty, and those are not
    missing. Slots before the first record seen count as sent."""

    def __init__(self) -> None:
        self._sent: set[int] = set()
        self._lost: list[range] = []
        self._first: int | None = None
        self._newest = -1

    def add(self, slot: int, lost: bool) -> None:
        if self._first is None:
            self._first = self._newest = slot
        if lost and slot > self._newest + 1:
            self._lost.append(range(self._newest + 1, slot))
        self._newest = max(self._newest, slot)
        self._sent.add(slot)

    def expected(self, first: int, end: int) -> int:
        begin = end if self._first is None else self._first
        return sum(
            slot < begin or slot in self._sent or any(slot in lost for lost in self._lost) for slot in range(first, end)
        )

    def forget_before(self, slot: int) -> None:
        if self._sent and min(self._sent) < slot:
            self._sent = {one for one in self._sent if one >= slot}
        self._lost = [lost for lost in self._lost if lost.stop > slot]
