"""One stream's sampler: joined pictures in, closed windows out. Decoding, sampling, keep masks and the resize live here.

A sampler is a function of the events it is given: it reads no clock, so that the same events give the same windows,
whichever thread runs it and however often. It never raises because of what a picture holds: see `Sampler.push`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

import numpy as np
import numpy.typing as npt
from torch import Tensor

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.presentation import MAX_DELAY
from codecflow.codec.signal import merge_signals, ticks_per_sample
from codecflow.errors import ConfigError, ModelError, SourceError
from codecflow.grid import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.keep.state import KeepState
from codecflow.messages import BLOCK, PictureMetadata, ResultError, Signal, StreamState
from codecflow.vlm.work import Frame

from .join import EpochEnd, Joined
from .resume import Offsets
from .windows import Step, WindowAssembly, WindowPlan

MOST_PIXELS = 64_000_000
"""Pixels of a picture beyond which a stream is set aside: decoding it would take the memory of many others."""

NO_KEYFRAME_MS = 30_000
"""A stream whose pictures cannot be decoded for this long because no keyframe comes is in trouble."""

_MOST_SIGNALS = 512
_FIRST_RETRY_S, _LAST_RETRY_S = Fraction(1), Fraction(64)

_logger = logging.getLogger("codecflow.worker")


@dataclass(frozen=True, slots=True)
class Sampling:
    """What all streams of a worker share: windows, keep policy, the model's token grid for a shown picture (width, height),
    and its input (3, height, width) for the picture's RGB (height, width, 3)."""

    plan: WindowPlan
    keep: KeepConfig
    grid_of: Callable[[int, int], TokenGrid]
    pixels_of: Callable[[npt.NDArray[np.uint8]], Tensor]


@dataclass(frozen=True, slots=True)
class Leave:
    """No records have come for long: the stream is left as it is, and goes on at `offsets` when it comes back."""

    offsets: Offsets


@dataclass(frozen=True, slots=True)
class Skipped:
    """The worker is behind: pictures were skipped up to the keyframe at `offsets`, which is next (None: up to the epoch's
    end)."""

    offsets: Offsets | None


@dataclass(frozen=True, slots=True)
class Thin:
    """From now on (or no longer, with `on` False) only every second frame and window."""

    on: bool


@dataclass(frozen=True, slots=True)
class Restart:
    """The engine has lost this stream's window: the next sampled frame is kept whole."""


Event = Joined | EpochEnd | Leave | Skipped | Thin | Restart


@dataclass(frozen=True, slots=True)
class Fault:
    """A picture whose handling failed: where its packet is, and why."""

    packets_offset: int
    reason: str


class _Epoch:
    """Decoder, signals, keep state and windows of the epoch that a stream is in."""

    def __init__(self, windows: WindowAssembly) -> None:
        self.windows = windows
        self.signals = SignalTrack()
        self.decoder = Decoder()
        self.keep: KeepState | None = None
        self.laid_over: tuple[tuple[int, int], int] | None = (
            None  # size and orientation of the pictures that keep is for
        )
        self.due: dict[int, int] = {}  # pts -> tick, of signal pictures that are not shown yet
        self.last_slot = -1  # the newest slot that records tell of
        self.clock: tuple[int, Fraction] | None = None  # start_pts and time base, once metadata have told
        self.next_seq: int | None = None
        self.recent: deque[int] = deque()  # slots of the newest pictures, in decode order
        self.waiting_since_ms: int | None = None  # since when no picture could be decoded for want of a keyframe
        self.aside_until: Fraction | None = None  # presentation time until which nothing is decoded

    def time(self, pts: int) -> Fraction | None:
        """Presentation time in seconds since the start of the epoch."""
        return None if self.clock is None else (pts - self.clock[0]) * self.clock[1]


class Sampler:
    """Decodes, samples, masks and resizes one stream's pictures, and cuts them into windows.

    `resume`: how far this stream was answered before, by any worker. `counts` is added to, by reason: lost-pictures (coded
    pictures without a frame), samples-differ (frames whose samples are not those that the producer saw), windows-skipped (no
    frame in the newest stride), windows-behind (left out because the worker was behind), and frames, tokens-kept,
    tokens-total of what was sampled. `trouble`: why no frames can be had at present.
    """

    def __init__(self, stream: str, sampling: Sampling, resume: StreamState | None = None) -> None:
        self.stream = stream
        self.counts: Counter[str] = Counter()
        self.trouble: ResultError | None = None
        self.faults: list[Fault] = []
        self._sampling = sampling
        self._resume = resume
        self._epoch: _Epoch | None = None
        self._steps: list[Step] = []
        self._thin = False
        self._skipped: Skipped | None = None
        self._retry_s = _FIRST_RETRY_S
        self._failed_at: Fraction | None = None
        self._seconds = {"decode": 0.0, "keep": 0.0}  # since the window before

    @property
    def held_bytes(self) -> int:
        """Bytes of sampled frames that wait for their window to close."""
        return self._epoch.windows.nbytes if self._epoch is not None else 0

    def push(self, event: Event) -> list[Step]:
        """Take an event in; the steps that it completes.

        Any error costs the pictures up to a later keyframe, at an exponentially growing distance: the windows that close
        meanwhile carry the error, and the picture is named in `faults`.
        """
        try:
            self._take(event)
        except Exception as error:  # one stream's picture must not stop the others
            _logger.debug("stream %r: %r", self.stream, event, exc_info=True)
            self._fail(event, error)
        steps, self._steps = self._steps, []
        return steps

    def _take(self, event: Event) -> None:
        match event:
            case Joined():
                epoch = self._epoch
                if epoch is None or epoch.windows.epoch != event.epoch:
                    epoch = self._begin(event.epoch, event.offsets)
                self._picture(epoch, event)
            case EpochEnd():
                self._end(event)
            case Leave():
                self._leave(event)
            case Skipped():
                self._skip(event)
            case Thin():
                self._thin = event.on
                if self._epoch is not None:
                    self._epoch.windows.thin = event.on
            case Restart():
                if self._epoch is not None:
                    self._epoch.keep = None

    def _begin(self, number: int, offsets: Offsets) -> _Epoch:
        plan, memory_s = self._sampling.plan, self._sampling.keep.memory_s
        resume = self._resume if self._resume is not None and self._resume.epoch == number else None
        if resume is not None:
            offsets = (resume.packets_offset, resume.metadata_offset)
        windows = WindowAssembly(plan, memory_s, self.stream, number, offsets, resume)
        windows.thin = self._thin
        self._epoch = epoch = _Epoch(windows)
        if self._skipped is not None:
            windows.skip(self._skipped.offsets)
            self._skipped = None
        self._set_trouble(None)
        self._retry_s, self._failed_at = _FIRST_RETRY_S, None
        if resume is None:
            self._steps.append(windows.begin())
        return epoch

    def _end(self, end: EpochEnd) -> None:
        epoch, self._skipped = self._epoch, None
        if epoch is None or epoch.windows.epoch != end.epoch:
            if not end.closed:
                return
            # Nothing was joined of it: there is only its end to remember.
            memory_s = self._sampling.keep.memory_s
            resume = self._resume if self._resume is not None and self._resume.epoch == end.epoch else None
            windows = WindowAssembly(self._sampling.plan, memory_s, self.stream, end.epoch, end.offsets, resume)
            self._steps.append(windows.end(end.offsets))
            return
        self._show(epoch, epoch.decoder.flush())
        self._hand_on(epoch, epoch.windows.close_before(epoch.last_slot + 1))
        if end.closed:
            self._steps.append(epoch.windows.end(end.offsets))
        self._epoch = None

    def _leave(self, leave: Leave) -> None:
        if (epoch := self._epoch) is not None:
            self._show(epoch, epoch.decoder.flush())
            step = epoch.windows.leave(leave.offsets)
            self._steps.append(step)
            self._epoch, self._resume = None, step.state

    def _skip(self, skipped: Skipped) -> None:
        if (epoch := self._epoch) is None:
            self._skipped = skipped  # before anything of the epoch to come
            return
        self._show(epoch, epoch.decoder.flush())
        epoch.windows.skip(skipped.offsets)
        epoch.keep = None
        epoch.due.clear()

    def _picture(self, epoch: _Epoch, joined: Joined) -> None:
        if joined.metadata is not None:
            self._note(epoch, joined.metadata)
        known = joined.picture or joined.metadata
        at = epoch.time(known.pts) if known is not None else None
        if at is not None:
            captured_at_ms = joined.picture.captured_at_ms if joined.picture is not None else 0
            self._pass(epoch, joined.seq, self._sampling.plan.slot_at(at), captured_at_ms)
        if (picture := joined.picture) is None:
            return
        if picture.keyframe:
            epoch.waiting_since_ms = None
            if at is not None:
                epoch.windows.keyframe(at, joined.offsets)
        if epoch.aside_until is not None:
            if not picture.keyframe or at is None or at < epoch.aside_until:
                self.counts["lost-pictures"] += 1
                return
            epoch.aside_until = None
        if picture.width * picture.height > MOST_PIXELS:
            self.counts["lost-pictures"] += 1
            self._set_trouble(
                ResultError(
                    "picture-size",
                    f"pictures of {picture.width}x{picture.height} are larger than {MOST_PIXELS // 10**6} million pixels; "
                    f"lower the camera's resolution, or produce with --transcode",
                )
            )
            return
        lost = epoch.decoder.lost
        try:
            with self._timed("decode"):
                shown = epoch.decoder.push(picture)
        except SourceError as error:
            self._set_trouble(ResultError("codec", str(error)))
            self.counts["lost-pictures"] += 1
            return
        newly_lost = epoch.decoder.lost - lost
        self.counts["lost-pictures"] += newly_lost
        if newly_lost and not picture.keyframe:
            self._await_keyframe(epoch, picture.captured_at_ms)
        self._show(epoch, shown)

    def _note(self, epoch: _Epoch, metadata: PictureMetadata) -> None:
        epoch.clock = (metadata.start_pts, metadata.time_base)
        if (signal := metadata.signal) is not None:
            try:
                ticks_per_sample(self._sampling.plan.fps, signal.interval, self.stream)
            except ConfigError as error:
                self._set_trouble(ResultError("signal-interval", str(error)))
                return
            if self.trouble is not None and self.trouble.code == "signal-interval":
                self._set_trouble(None)
            epoch.signals.add(signal)
            epoch.due[metadata.pts] = signal.tick

    def _pass(self, epoch: _Epoch, seq: int, slot: int, captured_at_ms: int) -> None:
        """A picture of `slot` has come. Windows that no later picture can belong to are closed, decoded or not: pictures are
        reordered by at most MAX_DELAY."""
        lost = epoch.next_seq is not None and seq != epoch.next_seq
        epoch.next_seq = seq + 1
        epoch.last_slot = max(epoch.last_slot, slot)
        epoch.windows.sent(slot, captured_at_ms, lost)
        epoch.recent.append(slot)
        if len(epoch.recent) > MAX_DELAY:
            self._hand_on(epoch, epoch.windows.close_before(epoch.recent.popleft()))

    def _show(self, epoch: _Epoch, pictures: Iterable[ShownPicture]) -> None:
        plan = self._sampling.plan
        for picture in pictures:
            if (at := epoch.time(picture.pts)) is None:
                continue
            slot = plan.slot_at(at)
            self._hand_on(epoch, epoch.windows.close_before(slot))
            tick = epoch.due.pop(picture.pts, None)
            for pts in [pts for pts in epoch.due if pts < picture.pts]:
                del epoch.due[pts]  # its picture was lost
            if tick is None or not epoch.windows.wants(slot):
                continue
            frame = self._sample(epoch, picture, slot, tick, float(at))
            if frame is not None:
                self._hand_on(epoch, epoch.windows.frame(frame, picture.picture.captured_at_ms))

    def _sample(self, epoch: _Epoch, picture: ShownPicture, slot: int, tick: int, time_s: float) -> Frame | None:
        mismatches = epoch.signals.mismatches
        signal = epoch.signals.take(tick, picture.matches)
        self.counts["samples-differ"] += epoch.signals.mismatches - mismatches
        size, orientation = (picture.width, picture.height), picture.orientation
        if epoch.keep is None or epoch.laid_over != (size, orientation):
            try:
                grid = self._sampling.grid_of(*picture.size).oriented(orientation)
            except ModelError as error:
                self._set_trouble(ResultError("picture-size", str(error)))
                return None
            epoch.keep, epoch.laid_over = KeepState(grid, self._sampling.keep), (size, orientation)
            signal = None
        if signal is not None and (signal.columns, signal.rows) != tuple(-(-n // BLOCK) for n in size):
            signal = None  # of a picture of another size: it bounds nothing here
        with self._timed("keep"):
            decision = epoch.keep.step(slot, signal, picture.luma)
            kept = int(decision.keep.sum())
            pixels = self._sampling.pixels_of(picture.rgb()) if kept else None
        self._set_trouble(None)
        self.counts.update({"frames": 1, "tokens-kept": kept, "tokens-total": decision.keep.size})
        return Frame(slot, time_s, decision.keep, pixels, picture.size, decision.anchor)

    def _hand_on(self, epoch: _Epoch, steps: list[Step]) -> None:
        for step in steps:
            if step.window is not None:
                step.window.seconds.update(self._seconds)
                self._seconds = dict.fromkeys(self._seconds, 0.0)
            self._steps.append(step)
        windows = epoch.windows
        self.counts.update({"windows-skipped": windows.without_frames, "windows-behind": windows.behind})
        windows.without_frames = windows.behind = 0

    def _await_keyframe(self, epoch: _Epoch, captured_at_ms: int) -> None:
        if epoch.waiting_since_ms is None:
            epoch.waiting_since_ms = captured_at_ms
        elif captured_at_ms - epoch.waiting_since_ms > NO_KEYFRAME_MS and self.trouble is None:
            self._set_trouble(
                ResultError(
                    "no-keyframe",
                    f"no keyframe for {NO_KEYFRAME_MS // 1000} s: nothing can be decoded until one comes; set the camera's "
                    f"keyframe interval (I-frame interval, GOP) to 1 to 5 s",
                )
            )

    def _set_trouble(self, trouble: ResultError | None) -> None:
        self.trouble = trouble
        if self._epoch is not None:
            self._epoch.windows.trouble = trouble

    def _fail(self, event: Event, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}".split("\n", 1)[0][:300]
        if isinstance(event, Joined) and event.picture is not None:
            self.faults.append(Fault(event.packets_offset, reason))
        epoch = self._epoch
        if epoch is None:
            return
        at = None
        if isinstance(event, Joined) and (known := event.picture or event.metadata) is not None:
            at = epoch.time(known.pts)
        if self._failed_at is not None and at is not None and at - self._failed_at > 2 * _LAST_RETRY_S:
            self._retry_s = _FIRST_RETRY_S
        epoch.aside_until = (at or Fraction(0)) + self._retry_s
        self._failed_at = at
        self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
        epoch.decoder, epoch.keep, epoch.signals = Decoder(), None, SignalTrack()
        epoch.due.clear()
        self._set_trouble(ResultError("failed", f"its pictures cannot be processed: {reason}"))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - start


class SignalTrack:
    """The signals of one epoch, by tick, until a sampled frame takes them.

    They come in decode order, ticks in presentation order: a later tick may come first. `mismatches`: pictures whose samples
    are not those that their signal was measured on.
    """

    def __init__(self) -> None:
        self.mismatches = 0
        self._signals: dict[int, Signal] = {}
        self._taken: int | None = None

    def add(self, signal: Signal) -> None:
        if self._taken is None or signal.tick > self._taken:
            self._signals[signal.tick] = signal
            if len(self._signals) > _MOST_SIGNALS:  # nothing is sampled at present
                del self._signals[min(self._signals)]

    def take(self, tick: int, matches: Callable[[Signal], bool]) -> Signal | None:
        """The signal since the frame that took before, up to and with `tick`; None where any of it may be missing: each
        signal must be measured against the one before it, and the first against that frame.

        `matches`: whether the frame's samples are those that its own signal was measured on. If not, neither this signal nor
        the next one says anything of them.
        """
        since, self._taken = self._taken, tick
        own = self._signals.get(tick)
        if own is not None and not matches(own):
            self.mismatches += 1
            since = self._taken = None
        signals = [self._signals.pop(t) for t in sorted(t for t in self._signals if t <= tick)]
        if since is None or not signals or [s.since for s in signals] != [since, *(s.tick for s in signals[:-1])]:
            return None
        if signals[-1].tick != tick or len({signal.change.shape for signal in signals}) > 1:
            return None
        return reduce(merge_signals, signals)
