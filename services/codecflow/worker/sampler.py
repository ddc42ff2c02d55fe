"""One stream's sampler: joined pictures in, closed windows out. It decodes sampled pictures on demand; `frame_maker` makes
frames of them, `windows` assembles those into windows. `sampled_epoch` is the epoch that it is in.

A sampler is a function of its events: it reads no clock, so the same events give the same windows, whichever thread runs it
and however often. It never raises because of a picture's content: see `Sampler.push`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from codecflow.codec.presentation import MAX_DELAY
from codecflow.codec.samples import Sample, SampleTrack
from codecflow.errors import ConfigError, SourceError
from codecflow.messages import CodedPicture, PictureMetadata, ResultError, StreamState, Zone, zones_digest
from codecflow.vlm.work import Frame

from .frame_maker import FrameMaker
from .frameless import Frameless
from .join import EpochEnd, Joined
from .resume import Offsets
from .sampled_epoch import SampledEpoch
from .sampler_events import Event, Fault, Leave, Recovery, Restart, Sampling, SetZones, Skipped, Thin
from .windows import Step, WindowAssembly

NO_KEYFRAME_MS = 30_000
"""A stream is in trouble after this long without a decodable picture because no keyframe comes."""

_TIME_WENT_BACK_S = 3600
"""After a take-over, pictures older than what was answered come again, but older by at most this much more than the time for
which frames affect later ones."""

_FIRST_RETRY_S, _LAST_RETRY_S = Fraction(1), Fraction(64)

_logger = logging.getLogger("codecflow.worker")


class Sampler:
    """Decodes one stream's pictures where they are sampled, and groups their frames into windows.

    `resume`: how far this stream was answered before, by any worker. `recovery`: what happened to the previous sampler.
    `zones`: the newest known. `counts` is incremented by reason: pictures (coded ones taken), pictures-decoded,
    lost-pictures (coded pictures that could not be decoded), samples-differ (frames whose samples are not those that the
    producer saw), windows-skipped (no frame in the newest stride), windows-behind (left out because the worker was behind),
    and frames, tokens-kept, tokens-total of what was sampled. `trouble`: why no frames can be produced at present.
    """

    def __init__(
        self,
        stream: str,
        sampling: Sampling,
        resume: StreamState | None = None,
        recovery: Recovery | None = None,
        zones: tuple[Zone, ...] = (),
    ) -> None:
        self.stream = stream
        self.counts: Counter[str] = Counter()
        self.trouble: ResultError | None = None if recovery is None else recovery.error
        self.faults: list[Fault] = []
        self._sampling = sampling
        self._late_slots = int((_TIME_WENT_BACK_S + sampling.keep.memory_s) * sampling.plan.fps)
        self._resume = resume
        self._epoch: SampledEpoch | None = None
        self._steps: list[Step] = []
        self._thin = recovery is not None and recovery.thin
        self._recovery = recovery
        self._zones = zones
        self._skipped: Skipped | None = None
        self._trace: str | None = None  # of the newest frame's picture
        self._retry_s = _FIRST_RETRY_S
        self._failed_at: Fraction | None = None
        self._pictures = {"published": 0, "decoded": 0}  # since the previous window

    @property
    def held_bytes(self) -> int:
        """Bytes of sampled frames that wait for their window to close, and of coded pictures that may still have to be
        decoded."""
        epoch = self._epoch
        return epoch.windows.nbytes + epoch.track.decoder.held_bytes if epoch is not None else 0

    def push(self, event: Event) -> list[Step]:
        """Process an event; returns the steps that it completes.

        Any error skips the pictures up to a later keyframe, with exponential backoff: windows that close meanwhile carry the
        error, and the picture is recorded in `faults`.
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
                if (valid := self._with_valid_time(epoch, event)) is not None:
                    self._picture(epoch, valid)
                self._check_frames(epoch, event.picture)
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
                    self._epoch.frames.restart()
            case SetZones():
                self._zones = event.zones
                if (epoch := self._epoch) is not None:
                    boundary = self._sampling.plan.end(epoch.windows.next_window)
                    epoch.change = None if event.zones == epoch.frames.zones else (boundary, event.zones)

    def _begin(self, number: int, offsets: Offsets) -> SampledEpoch:
        plan, keep = self._sampling.plan, self._sampling.keep
        resume = self._resume if self._resume is not None and self._resume.epoch == number else None
        if resume is not None:
            offsets = (resume.packets_offset, resume.metadata_offset)
        windows = WindowAssembly(plan, keep.memory_s, self.stream, number, offsets, resume, background=keep.background)
        windows.thin = self._thin
        self._epoch = epoch = SampledEpoch(windows, self._track(), FrameMaker(self._sampling, self._zones), plan.fps)
        self._begin_zones(epoch, resume)
        if self._skipped is not None:
            windows.skip(self._skipped.offsets)
            self._skipped = None
        self._set_trouble(None)
        if (recovery := self._recovery) is not None and recovery.error is not None:
            epoch.recovery = recovery
            self._set_trouble(recovery.error)
        self._recovery = None
        self._retry_s, self._failed_at = _FIRST_RETRY_S, None
        if resume is None:
            self._steps.append(windows.begin())
        return epoch

    def _begin_zones(self, epoch: SampledEpoch, resume: StreamState | None) -> None:
        """The zones of an epoch that starts, or continues from `resume`. Those that the state names are in force from the
        time given there; others from the first unanswered window."""
        windows = epoch.windows
        before, digest = windows.zones, zones_digest(self._zones)
        if digest != (0 if before is None else before.digest):
            windows.change_zones(digest, Fraction(0) if resume is None else resume.answered_until)
        elif before is not None:
            windows.change_zones(before.digest, before.since)

    def _change_zones(self, epoch: SampledEpoch, slot: int) -> None:
        """Apply new zones once a frame has come from after the window boundary at which they take effect."""
        if epoch.change is None or slot < epoch.change[0]:
            return
        (boundary, zones), epoch.change = epoch.change, None
        if zones_digest(zones) != zones_digest(epoch.frames.zones):
            epoch.windows.change_zones(zones_digest(zones), self._sampling.plan.time(boundary))
            epoch.frames.change_zones(zones)
        epoch.frames.zones = zones

    def _end(self, end: EpochEnd) -> None:
        epoch, self._skipped = self._epoch, None
        if epoch is None or epoch.windows.epoch != end.epoch:
            if not end.closed:
                return
            # Nothing of it was joined: only its end has to be recorded.
            memory_s = self._sampling.keep.memory_s
            resume = self._resume if self._resume is not None and self._resume.epoch == end.epoch else None
            windows = WindowAssembly(self._sampling.plan, memory_s, self.stream, end.epoch, end.offsets, resume)
            self._steps.append(windows.end(end.offsets))
            return
        self._show(epoch, epoch.track.flush())
        self._emit(epoch, epoch.windows.close_before(epoch.last_slot + 1))
        if end.closed:
            step = epoch.windows.end(end.offsets)
            self._steps.append(step)
            self._resume = step.state  # in case its pictures continue: the end was false
        self._epoch = None

    def _leave(self, leave: Leave) -> None:
        if (epoch := self._epoch) is not None:
            self._show(epoch, epoch.track.flush())
            step = epoch.windows.leave(leave.offsets)
            self._steps.append(step)
            self._epoch, self._resume = None, step.state

    def _skip(self, skipped: Skipped) -> None:
        if (epoch := self._epoch) is None:
            self._skipped = skipped  # before any later picture of the epoch
            return
        self._show(epoch, epoch.track.flush())
        epoch.windows.skip(skipped.offsets)
        epoch.frames.restart()

    def _picture(self, epoch: SampledEpoch, joined: Joined) -> None:
        metadata = joined.metadata
        known = joined.picture or joined.metadata
        slot = None if known is None else epoch.slot(known.pts)
        if slot is not None:
            captured_at_ms = joined.picture.captured_at_ms if joined.picture is not None else 0
            self._pass(epoch, joined.seq, slot, captured_at_ms)
        if (picture := joined.picture) is None:
            self._push(epoch, None, metadata)
            return
        at = None
        if picture.keyframe:
            at, epoch.waiting_since_ms = epoch.time(picture.pts), None
            if at is not None:
                epoch.windows.keyframe(at, joined.offsets)
        if (recovery := epoch.recovery) is not None:
            if (begin := epoch.time(picture.pts)) is None or joined.seq < recovery.seq:
                self.counts["lost-pictures"] += 1
                return
            epoch.aside_until, epoch.recovery = begin + recovery.aside_s, None
        if epoch.aside_until is not None:
            if not picture.keyframe or at is None or at < epoch.aside_until:
                self.counts["lost-pictures"] += 1
                return
            epoch.aside_until = None
        if picture.width * picture.height > self._sampling.max_pixels:
            self.counts["lost-pictures"] += 1
            self._set_trouble(
                ResultError(
                    "picture-size",
                    f"pictures of {picture.width}x{picture.height} are larger than --max-picture-size; lower the "
                    "camera's resolution, or produce with --transcode",
                )
            )
            return
        if self._push(epoch, picture, metadata) and not picture.keyframe:
            self._await_keyframe(epoch, picture.captured_at_ms)
        over = epoch.track.decoder.over_pts
        if over is not None and (until := epoch.slot(over)) is not None and until > 0:
            self._emit(epoch, epoch.windows.close_before(until))

    def _with_valid_time(self, epoch: SampledEpoch, joined: Joined) -> Joined | None:
        """Drops the packet if its time cannot be right. It must equal that of its metadata, which is bounded; without
        metadata it must lie within a window of the pictures before it."""
        metadata, picture = joined.metadata, joined.picture
        if metadata is not None:
            epoch.set_clock(metadata.start_pts, metadata.time_base)
        if picture is None:
            return joined
        if metadata is not None:
            if picture.pts == metadata.pts and picture.time_base == metadata.time_base:
                return joined
        else:
            slot = epoch.slot(picture.pts)
            if slot is None or abs(slot - epoch.last_slot) <= self._sampling.plan.window_slots + MAX_DELAY:
                return joined
        self.counts["lost-pictures"] += 1
        epoch.frameless.mistimed += 1
        return None if metadata is None else replace(joined, picture=None)

    def _push(self, epoch: SampledEpoch, picture: CodedPicture | None, metadata: PictureMetadata | None) -> int:
        """Process a picture; returns how many were found to be lost."""
        decoder = epoch.track.decoder
        lost, published, decoded = decoder.lost, decoder.published, decoder.decoded
        try:
            try:
                samples = epoch.track.push(picture, metadata)
            except ConfigError as error:
                self._set_trouble(ResultError("signal-interval", str(error)))
                samples = epoch.track.push(picture, None)
            else:
                signal = None if metadata is None else metadata.signal
                if signal is not None and self.trouble is not None and self.trouble.code == "signal-interval":
                    self._set_trouble(None)
            self._show(epoch, samples)
        except SourceError as error:
            self._set_trouble(ResultError("codec", str(error)))
            self.counts["lost-pictures"] += 1
        newly_lost = decoder.lost - lost
        self._pictures["published"] += decoder.published - published
        self._pictures["decoded"] += decoder.decoded - decoded
        self.counts.update(
            {
                "lost-pictures": newly_lost,
                "pictures": decoder.published - published,
                "pictures-decoded": decoder.decoded - decoded,
            }
        )
        return newly_lost

    def _track(self) -> SampleTrack:
        sampling = self._sampling
        return SampleTrack(sampling.plan.fps, self.stream, nvdec=sampling.nvdec, max_bytes=sampling.gop_bytes)

    def _pass(self, epoch: SampledEpoch, seq: int, slot: int, captured_at_ms: int) -> None:
        """A picture of `slot` has come. Windows that no later picture can belong to are closed, whether it can be decoded or
        not: pictures are reordered by at most MAX_DELAY."""
        lost = epoch.next_seq is not None and seq != epoch.next_seq
        epoch.next_seq = seq + 1
        epoch.last_slot = max(epoch.last_slot, slot)
        self._check_time(epoch, slot)
        epoch.windows.sent(slot, captured_at_ms, lost)
        epoch.recent.append(slot)
        if len(epoch.recent) > MAX_DELAY:
            self._emit(epoch, epoch.windows.close_before(epoch.recent.popleft()))

    def _check_time(self, epoch: SampledEpoch, slot: int) -> None:
        """A picture far older than what was answered: one before it had a time that will not be reached soon."""
        late = self._sampling.plan.first(epoch.windows.next_window) - slot
        if late > self._late_slots:
            if self.trouble is None:
                late_s = float(self._sampling.plan.time(late))
                self._set_trouble(
                    ResultError(
                        "time",
                        f"its pictures are {late_s:.0f} s older than what was answered of this epoch: one before "
                        "them had a wrong time; restart its producer, which begins a new epoch",
                    )
                )
        elif self._time_is_wrong:
            self._set_trouble(None)

    @property
    def _time_is_wrong(self) -> bool:
        return self.trouble is not None and self.trouble.code == "time"

    def _show(self, epoch: SampledEpoch, samples: Iterable[Sample]) -> None:
        for sample in samples:
            picture, slot = sample.picture.picture, sample.slot
            self._emit(epoch, epoch.windows.close_before(slot))
            self._change_zones(epoch, slot)
            if slot < epoch.windows.since:
                epoch.frameless = Frameless()
                continue
            trouble = epoch.frames.observe(sample)
            if trouble is not None:
                self._set_trouble(trouble)
            epoch.windows.sent(
                slot, picture.captured_at_ms, lost=False
            )  # a keyframe may be in the slot after its time's
            if not epoch.frames.ready or not epoch.windows.wants(slot) or (at := epoch.time(picture.pts)) is None:
                epoch.frameless = Frameless()
                continue
            if (frame := self._frame(epoch, sample, float(at))) is None:
                epoch.frameless.lost += 1
            else:
                epoch.frameless = Frameless()
                self._trace = picture.trace
                self._emit(epoch, epoch.windows.frame(frame, picture.captured_at_ms))

    def _frame(self, epoch: SampledEpoch, sample: Sample, time_s: float) -> Frame | None:
        try:
            frame = epoch.frames.make(sample, time_s)
        finally:
            self.counts.update(epoch.frames.take_counts())
        if frame is not None and not self._time_is_wrong:
            self._set_trouble(None)
        return frame

    def _emit(self, epoch: SampledEpoch, steps: list[Step]) -> None:
        for step in steps:
            if step.window is not None:
                step.window.seconds.update(epoch.frames.take_seconds())
                step.window.pictures.update(self._pictures)
                self._pictures = dict.fromkeys(self._pictures, 0)
            self._steps.append(step if self._trace is None else self._traced(step))
        windows = epoch.windows
        self.counts.update({"windows-skipped": windows.without_frames, "windows-behind": windows.behind})
        windows.without_frames = windows.behind = 0

    def _traced(self, step: Step) -> Step:
        """The step with the trace of its newest frame's picture."""
        if step.window is None:
            return step
        trace, self._trace = self._trace, None
        return replace(step, window=replace(step.window, trace=trace, closed_at_s=time.time()))

    def _await_keyframe(self, epoch: SampledEpoch, captured_at_ms: int) -> None:
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

    def _check_frames(self, epoch: SampledEpoch, picture: CodedPicture | None) -> None:
        """A stream that gives no frames must say why."""
        if picture is None:
            return
        found, at = epoch.frameless, epoch.time(picture.pts)
        found.add(picture, at)
        trouble = found.trouble(picture, at, self._sampling.plan.fps) if self.trouble is None else None
        if trouble is not None:
            self._set_trouble(trouble)

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
        epoch.track = self._track()
        epoch.frames.restart()
        self._set_trouble(ResultError("failed", f"its pictures cannot be processed: {reason}"))
