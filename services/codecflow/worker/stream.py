"""One stream in a worker: records in, closed windows out."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from torch import Tensor

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.signal import ticks_per_sample
from codecflow.errors import ModelError, SourceError
from codecflow.grid import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.keep.state import KeepState
from codecflow.messages import BLOCK, CodedPicture, EndOfEpoch, PictureMetadata, StreamState
from codecflow.vlm.work import Frame

from .feed import Offsets, Step, WindowFeed
from .join import EpochEnd, Joined, StreamJoin
from .signals import SignalTrack
from .windows import WindowPlan


@dataclass(frozen=True, slots=True)
class Sampling:
    """What all streams of a worker share: windows, keep policy, and the model's token grid for a picture (width, height) and
    its input for the picture's RGB (height, width, 3)."""

    plan: WindowPlan
    keep: KeepConfig
    grid_of: Callable[[int, int], TokenGrid]
    pixels_of: Callable[[npt.NDArray[np.uint8]], Tensor]


class _Epoch:
    """Decoder, signals, keep state and windows of the epoch that a stream is in."""

    def __init__(self, feed: WindowFeed) -> None:
        self.feed = feed
        self.signals = SignalTrack()
        self.decoder = Decoder()
        self.keep: KeepState | None = None
        self.due: dict[int, int] = {}  # pts -> tick, of pictures to be sampled once they are shown
        self.last_slot = -1  # the newest slot that metadata tell of
        self.clock: tuple[int, Fraction] | None = None  # start_pts and time base, once metadata have told

    def time(self, pts: int) -> Fraction | None:
        """Presentation time in seconds since the start of the epoch."""
        return None if self.clock is None else (pts - self.clock[0]) * self.clock[1]


class Stream:
    """The pipeline of one stream: join, decode, sample, keep, cut into windows.

    `state`: how far this stream was answered before, by whomever; records behind it are passed over. `counts` is added to,
    by reason: those of StreamJoin, lost-pictures (coded pictures without a frame), samples-differ (frames whose samples are
    not those that the producer saw), windows-skipped (nothing in the newest stride), and frames, tokens-kept, tokens-total
    of what was sampled.
    """

    def __init__(self, name: str, sampling: Sampling, counts: Counter[str], state: StreamState | None = None) -> None:
        self.name = name
        self.counts = counts
        self.state = state
        """What was last emitted. Its owner sets it when a transaction is committed."""
        self.ready: deque[Step] = deque()
        """What is to be emitted next, oldest first. Its owner takes a step out when it is emitted."""
        self.trouble: str | None = None
        """Why no frames of this stream can be had at present."""
        self.join = StreamJoin(counts)
        self._sampling = sampling
        self._resume = state
        self._seen: Offsets = (-1, -1)
        self._epoch: _Epoch | None = None
        self._seconds = {"decode": 0.0, "keep": 0.0}  # since the window before

    @property
    def plan(self) -> WindowPlan:
        return self._sampling.plan

    def holds(self, state: StreamState | None, steps: int) -> tuple[int | None, int | None]:
        """The oldest packets and metadata record that a worker that takes over needs (None: it needs none) once `state` is
        what was emitted last and `steps` of `ready` are taken out."""
        rewind: tuple[int | None, int | None] = (None, None)
        if state is not None and not state.ended:
            rewind = (state.packets_offset, state.metadata_offset)
        elif len(self.ready) > steps:
            rewind = self.ready[steps].rewind
        packets, metadata = self.join.oldest_waiting
        return _least(rewind[0], packets), _least(rewind[1], metadata)

    def packet(self, picture: CodedPicture, offset: int) -> None:
        if not self._behind(picture.epoch, offset, 0):
            self._seen = (offset, self._seen[1])
            self.join.add_packet(picture, offset)
            self._accept(self.join.take())

    def metadata(self, document: PictureMetadata | EndOfEpoch, offset: int) -> None:
        """Raises ConfigError when the stream's signal cannot serve the sampling rate."""
        if not self._behind(document.epoch, offset, 1):
            self._seen = (self._seen[0], offset)
            self.join.add_metadata(document, offset)
            self._accept(self.join.take())

    def park(self) -> None:
        """Nothing has come for long: what waits is given up, and the stream holds nothing back any more.

        The last step leaves off at the newest record; a stream that comes back begins there, at its next keyframe.
        """
        self._accept(self.join.give_up())
        if self._epoch is not None:
            self._show(self._epoch, self._epoch.decoder.flush())
            self.ready.append(self._epoch.feed.leave(self._after()))
            self._epoch = None

    def give_up(self) -> None:
        """The other topic has nothing more for what waits here."""
        self._accept(self.join.give_up())

    def _behind(self, epoch: int, offset: int, topic: int) -> bool:
        """Whether a record was dealt with before this stream was resumed."""
        if (resume := self._resume) is None or epoch > resume.epoch:
            return False
        if offset < (resume.packets_offset, resume.metadata_offset)[topic]:
            return True
        over = epoch < resume.epoch or resume.ended
        self.counts["earlier-epoch"] += over
        return over

    def _after(self) -> Offsets:
        return self._seen[0] + 1, self._seen[1] + 1

    def _accept(self, events: Iterable[Joined | EpochEnd]) -> None:
        for event in events:
            if isinstance(event, Joined):
                if self._epoch is None or self._epoch.feed.epoch != event.epoch:
                    self._begin(event.epoch, (event.packets_offset, event.metadata_offset))
                assert self._epoch is not None
                self._picture(self._epoch, event)
            else:
                self._finish(event)

    def _begin(self, epoch: int, offsets: Offsets) -> None:
        plan, memory_s = self._sampling.plan, self._sampling.keep.memory_s
        resume = self._resume
        if resume is not None and resume.epoch == epoch:
            offsets = (resume.packets_offset, resume.metadata_offset)
            self._epoch = _Epoch(WindowFeed(plan, memory_s, epoch, offsets, plan.open_at(resume.answered_until)))
        else:
            self._epoch = _Epoch(WindowFeed(plan, memory_s, epoch, offsets))
            self.ready.append(Step(epoch, 0, offsets))  # from now on a worker that takes over begins here

    def _finish(self, end: EpochEnd) -> None:
        epoch = self._epoch
        if epoch is not None and epoch.feed.epoch == end.epoch:
            self._show(epoch, epoch.decoder.flush())
            self._take(epoch, epoch.feed.close_before(epoch.last_slot + 1))
        if end.closed:
            next_window = epoch.feed.next_window if epoch is not None and epoch.feed.epoch == end.epoch else 0
            self.ready.append(Step(end.epoch, next_window, self._after(), ended=True))
        self._epoch = None

    def _picture(self, epoch: _Epoch, joined: Joined) -> None:
        if joined.metadata is not None:
            self._note(epoch, joined.metadata)
        if (picture := joined.picture) is None:
            return
        if picture.keyframe and (at := epoch.time(picture.pts)) is not None:
            epoch.feed.keyframe(at, (joined.packets_offset, joined.metadata_offset))
        lost = epoch.decoder.lost
        try:
            with self._timed("decode"):
                shown = epoch.decoder.push(picture)
        except SourceError as error:
            self.trouble = str(error)
            self.counts["lost-pictures"] += 1
            return
        self.counts["lost-pictures"] += epoch.decoder.lost - lost
        self._show(epoch, shown)

    def _note(self, epoch: _Epoch, metadata: PictureMetadata) -> None:
        epoch.clock = (metadata.start_pts, metadata.time_base)
        if (signal := metadata.signal) is not None:
            epoch.signals.add(signal)
            slot, rest = divmod(signal.tick, ticks_per_sample(self._sampling.plan.fps, signal.interval, self.name))
            epoch.last_slot = max(epoch.last_slot, slot)
            if not rest:
                epoch.due[metadata.pts] = signal.tick

    def _show(self, epoch: _Epoch, pictures: Iterable[ShownPicture]) -> None:
        plan = self._sampling.plan
        for picture in pictures:
            if (at := epoch.time(picture.pts)) is None:
                continue
            self._take(epoch, epoch.feed.close_before(plan.slot_at(at)))
            tick = epoch.due.pop(picture.pts, None)
            for pts in [pts for pts in epoch.due if pts < picture.pts]:
                del epoch.due[pts]  # its picture was lost
            if tick is None or not epoch.feed.wants(slot := plan.slot_at(at)):
                continue
            frame = self._sample(epoch, picture, slot, tick, float(at))
            if frame is not None:
                self._take(epoch, epoch.feed.frame(frame, picture.picture.captured_at_ms))

    def _take(self, epoch: _Epoch, steps: list[Step]) -> None:
        for step in steps:
            if step.window is not None:
                step.window.seconds.update(self._seconds)
                self._seconds = dict.fromkeys(self._seconds, 0.0)
            self.ready.append(step)
        self.counts["windows-skipped"] += epoch.feed.take_skipped()

    def _sample(self, epoch: _Epoch, picture: ShownPicture, slot: int, tick: int, time_s: float) -> Frame | None:
        mismatches = epoch.signals.mismatches
        signal = epoch.signals.take(tick, picture.matches)
        self.counts["samples-differ"] += epoch.signals.mismatches - mismatches
        size = (picture.width, picture.height)
        if epoch.keep is None or (epoch.keep.grid.width, epoch.keep.grid.height) != size:
            try:
                epoch.keep = KeepState(self._sampling.grid_of(*size), self._sampling.keep)
            except ModelError as error:
                self.trouble = str(error)
                return None
            signal = None
        if signal is not None and (signal.columns, signal.rows) != tuple(-(-n // BLOCK) for n in size):
            signal = None  # of a picture of another size: it bounds nothing here
        with self._timed("keep"):
            decision = epoch.keep.step(slot, signal, picture.luma)
            kept = int(decision.keep.sum())
            pixels = self._sampling.pixels_of(picture.rgb()) if kept else None
        self.trouble = None
        self.counts.update({"frames": 1, "tokens-kept": kept, "tokens-total": decision.keep.size})
        return Frame(slot, time_s, decision.keep, pixels, size, decision.anchor)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - start


def _least(a: int | None, b: int | None) -> int | None:
    return a if b is None else b if a is None else min(a, b)
