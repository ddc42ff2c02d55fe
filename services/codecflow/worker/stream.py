"""One stream in the worker's main thread: records in, events to its sampler, steps back, and what is committed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from codecflow.events import stream_events
from codecflow.messages import (
    NO_EVENTS,
    CameraLost,
    CodedPicture,
    EndOfEpoch,
    Event,
    EventKind,
    PictureMetadata,
    Question,
    ResultError,
    StreamState,
    Zone,
)

from .answering import Answered
from .backlog import Backlog
from .join import EpochEnd, Joined, StreamJoin
from .pool import Sampled, SamplerPool
from .resume import NeededRecords, Resume
from .sampler_events import Leave, Restart, SetZones
from .settings import Limits, WhenBehind
from .windows import Step

_TRANSIENT = ("restarting",)
"""Codes of errors that end with the next window."""


class Stream:
    """Follows one stream in a pool.

    `state`: how far the stream was answered before, by any worker; earlier records are ignored. `zones`: its own. `counts`
    is incremented by reason: those of StreamJoin and Sampler, and dropped-unpaired (records dropped at a limit while their
    counterparts did not come).
    """

    def __init__(
        self,
        name: str,
        pool: SamplerPool,
        limits: Limits,
        when_behind: WhenBehind,
        counts: Counter[str],
        state: StreamState | None,
        zones: tuple[Zone, ...] = (),
    ) -> None:
        self.name = name
        self.counts = counts
        self.state = state
        """The last committed state."""
        self.ready: deque[Step] = deque()
        """What is to be emitted next, oldest first; each has a window, except perhaps the newest."""
        self._ready_at: deque[float] = deque()  # since when, in monotonic seconds
        self.taken: deque[Step] = deque()
        """Steps in the engine or in a transaction."""
        self.closed_bytes = 0
        """Sampled frames of closed windows that wait for the engine or are in it."""
        self.join = StreamJoin(counts)
        self.parked = False
        self.newest_at = 0.0
        """When the newest record came, in monotonic seconds."""
        self.seen_at = [0.0, 0.0]
        """Likewise, of packets and of metadata."""
        self.full_since: float | None = None
        """Since when it is at a limit of records that wait for their counterparts."""
        self.unpaired = False
        """Records were dropped at that limit, and no counterpart has come since."""
        self.overrun = False
        """Its pictures are skipped because it would hold up others of its partition: its sampler or the engine is behind."""
        self.left_out_reported: Counter[str] = Counter()
        """Records that were skipped and reported, by kind."""
        self.false_ends = 0
        """False ends of epochs that are still to be reported."""
        self.conditions: dict[EventKind, str] = (
            {} if state is None else dict.fromkeys(stream_events.present(state.events), "")
        )
        """Current conditions that are worth an event, and their reasons."""
        self._late_after_s = when_behind.after_s
        self._pool, self._limits = pool, limits
        self._resume = Resume(state)
        self._needed = NeededRecords.nothing()
        self._lost = 0  # the newest epoch that ended with a lost camera
        self._ended = -1  # the newest epoch whose end was read
        self._over = 0  # records of epochs before the state's, after its offsets
        self._began = -1 if state is None else state.epoch if not state.ended else -1
        self._backlog = Backlog(when_behind, self._resume, limits.stream_bytes)
        self._zones = zones
        self._queue = pool.open(name, state, zones)

    @property
    def queued_bytes(self) -> int:
        """Coded pictures that wait for the sampler."""
        return self._queue.queued_bytes

    @property
    def coded_bytes(self) -> int:
        """Coded pictures that wait: for metadata, for the end of a backlog, for the sampler."""
        return self.join.bytes_waiting + self._backlog.nbytes + self._queue.queued_bytes

    @property
    def frame_bytes(self) -> int:
        """Sampled frames of the open window and of closed ones."""
        return self._queue.held_bytes + self.closed_bytes

    @property
    def windows_waiting(self) -> int:
        return sum(step.window is not None for step in self.ready)

    def waits_s(self, now: float) -> float:
        """For how long the oldest window has waited for the engine, in seconds; 0 if none waits. Not since its capture: a
        camera's clock may be wrong."""
        steps = zip(self.ready, self._ready_at, strict=True)
        return next((now - at for step, at in steps if step.window is not None), 0.0)

    @property
    def queue_full(self) -> bool:
        """Whether the sampler's queue is full. Once the stream is skipped for that, until it is down to half of the
        limit."""
        return self._queue.queued_bytes * (2 if self.overrun else 1) >= self._limits.stream_bytes

    @property
    def may_skip(self) -> bool:
        """Whether its newest picture could be skipped: live, not context, and permitted by --when-behind."""
        return self._backlog.may_skip

    @property
    def live(self) -> bool:
        """Whether its newest picture is of a live source."""
        return self._backlog.live

    def behind_s(self, now_ms: int, at_end: bool) -> float | None:
        """How late it is read, in seconds; None before the first picture, and once its epoch has ended. `at_end`: nothing
        newer is unread."""
        backlog = self._backlog
        if backlog.behind_s is None or at_end:
            return backlog.behind_s
        return (now_ms - backlog.newest_ms) / 1000

    @property
    def earlier_epochs(self) -> int:
        """Records of an earlier epoch than `newest_epoch` that came after those of that one."""
        return self.join.earlier_epochs + self._over

    @property
    def newest_epoch(self) -> int:
        """The newest epoch that was answered or read."""
        state = self._resume.state
        return self.join.newest_epoch if state is None else max(self.join.newest_epoch, state.epoch)

    @property
    def sampled_all(self) -> bool:
        """Whether its sampler has processed all its events, and the output was taken over."""
        return not self._queue.unfinished

    @property
    def settled(self) -> bool:
        """Whether everything received is answered and committed, and the stream has ended."""
        return (
            self.sampled_all
            and not self.ready
            and not self.taken
            and self.state is not None
            and self.needed(self.state) == (None, None)
        )

    def packet(self, picture: CodedPicture, offset: int, now_ms: int, at_end: bool) -> None:
        self._observe_epoch(picture.epoch)
        if not self._covered(picture.epoch, offset, 0):
            self.join.add_packet(picture, offset)
            self._accept(self.join.take(), now_ms, at_end)

    def metadata(self, document: PictureMetadata | EndOfEpoch, offset: int, now_ms: int, at_end: bool) -> None:
        self._observe_epoch(document.epoch)
        if isinstance(document, EndOfEpoch):
            self._ended = document.epoch
            self.conditions.pop("camera-lost", None)
        if not self._covered(document.epoch, offset, 1):
            self.join.add_metadata(document, offset)
            self._accept(self.join.take(), now_ms, at_end)

    def give_up(self, now_ms: int) -> None:
        """The other topic has no counterparts for the records that wait here."""
        self._accept(self.join.give_up(), now_ms, True)

    def caught_up(self, now_ms: int) -> None:
        """The partition has been read to its end."""
        for event in self._backlog.caught_up(now_ms, self.overrun):
            self._pool.push(self._queue, event)

    def take_episode(self) -> tuple[float, float] | None:
        """(seconds behind, seconds skipped) of a backlog that was skipped since the last call."""
        return self._backlog.take_episode()

    def park(self, now_ms: int) -> None:
        """Nothing has come for long: waiting records are given up, and the stream holds back no offsets once its last step,
        which ends at the newest record, is committed."""
        self.give_up(now_ms)
        self.overrun = False
        self.caught_up(now_ms)
        self._pool.push(self._queue, Leave(self.join.seen))
        self.parked = True

    def restart(self) -> None:
        """The engine has lost this stream's window."""
        self._pool.push(self._queue, Restart())

    def set_zones(self, zones: tuple[Zone, ...]) -> None:
        """Set its zones, from the next window boundary on."""
        if zones != self._zones:
            self._zones = zones
            self._pool.push(self._queue, SetZones(zones))

    def sampled(self, sampled: Sampled, now: float) -> None:
        """Take over its sampler's output, at monotonic time `now`. A step without a window is merged with the one before or
        after it."""
        self.counts.update(sampled.counts)
        for step in sampled.steps:
            self.closed_bytes += step.nbytes
            before = self.ready[-1] if self.ready else None
            # An epoch ends before the windows of the next one are considered.
            apart = before is not None and before.state.ended and step.window is not None
            if before is not None and not apart and (before.window is None or step.window is None):
                self.ready[-1] = Step(step.state, before.window or step.window, step.last, before.nbytes + step.nbytes)
            else:
                self.ready.append(step)
                self._ready_at.append(now)

    def take(self) -> Step | None:
        """The next step to be emitted, if there is one."""
        if not self.ready:
            return None
        self.taken.append(self.ready.popleft())
        self._ready_at.popleft()
        return self.taken[-1]

    def decide(self, answered: Answered, questions: Sequence[Question], now_ms: int) -> Answered:
        """The oldest step taken, with its events, and a state that records them. To be called while no transaction is in
        progress: its events depend only on the state committed last."""
        step = answered.step
        assert self.taken[0] is step
        if step.window is not None:
            self._set_aside(answered.error)
        ending = None
        if step.state.ended:
            self.conditions.pop("silent", None)
            self.conditions.pop("behind", None)
        if step.state.ended or step.last:
            ending = "the stream has ended" if step.state.ended else "nothing comes any more"
        before = NO_EVENTS if self.state is None else self.state.events
        after, events = stream_events.follow(self.name, before, questions, answered.results, now_ms, ending)
        after, more = stream_events.conditions(self.name, after, step.state.epoch, self.conditions, now_ms)
        decided = replace(step, state=replace(step.state, events=after))
        self.taken[0] = decided
        return replace(answered, step=decided, events=(*events, *more))

    @property
    def conditions_changed(self) -> bool:
        """Whether conditions have changed since the last commit."""
        return self.state is not None and self.conditions.keys() != stream_events.present(self.state.events)

    def observe_record(self, appended_ms: int) -> None:
        """A record of it has come, which the broker received at `appended_ms`."""
        if "silent" in self.conditions:
            opened = None if self.state is None else stream_events.since(self.state.events, "silent")
            # A record read again after a take-over dates from before the silence.
            if opened is None or appended_ms > opened - 500 * self._limits.silent_s:
                del self.conditions["silent"]

    def observe_lost(self, lost: CameraLost) -> None:
        """Its producer has lost the camera connection."""
        if lost.epoch >= max(self.newest_epoch, self._lost):
            self._lost = lost.epoch
            self.conditions.setdefault("camera-lost", f"the producer has lost the camera ({lost.code})")

    def _observe_epoch(self, epoch: int) -> None:
        """A record of a picture has come: if its epoch is later than the one that was lost, the camera is back."""
        if "camera-lost" in self.conditions and epoch > max(self._lost, 0 if self.state is None else self.state.epoch):
            del self.conditions["camera-lost"]

    def observe_silent(self, after_s: float) -> None:
        """No record of it has come for this long."""
        over = self._ended >= self.newest_epoch or "camera-lost" in self.conditions
        if self.state is not None and not self.state.ended and not over and "silent" not in self.conditions:
            self.conditions["silent"] = f"no pictures for {after_s:g} s"

    def observe_behind(self, now_ms: int, at_end: bool) -> None:
        """Check how far it is behind now."""
        behind_s = self.behind_s(now_ms, at_end) if self._backlog.late else None
        if behind_s is None or at_end or behind_s < self._late_after_s / 2:
            self.conditions.pop("behind", None)
        elif behind_s > self._late_after_s and "behind" not in self.conditions:
            self.conditions["behind"] = f"it is answered {behind_s:.0f} s late"

    def condition_events(self, now_ms: int) -> tuple[StreamState, list[Event]] | None:
        """Events of conditions that have changed since the last commit, with the state that records them; None if there are
        none. To be called while no transaction is in progress."""
        state = self.state
        if state is None or not self.conditions_changed:
            return None
        after, events = stream_events.conditions(self.name, state.events, state.epoch, self.conditions, now_ms)
        return replace(state, events=after), events

    def events_committed(self, state: StreamState) -> None:
        """What `condition_events` returned is committed."""
        self.state = state

    def _set_aside(self, error: ResultError | None) -> None:
        if error is None:
            self.conditions.pop("set-aside", None)
        elif error.code not in _TRANSIENT:
            self.conditions["set-aside"] = error.text

    def committed(self, step: Step) -> None:
        """The oldest step taken is committed."""
        assert self.taken[0] is step
        self.taken.popleft()
        self.closed_bytes -= step.nbytes
        self.state = step.state
        self._needed.committed(step.state)

    def needed(self, state: StreamState | None) -> tuple[int | None, int | None]:
        """The oldest packets and metadata records that a successor needs (None: none) once `state` is committed."""
        return self._needed.offsets(state, self.join.oldest_waiting)

    def close(self) -> None:
        """Discard what is queued and sampled."""
        self._pool.drop(self._queue)

    def owns(self, sampled: Sampled) -> bool:
        return sampled.queue is self._queue

    def _covered(self, epoch: int, offset: int, topic: int) -> bool:
        if not self._resume.covers(epoch, offset, topic):
            return False
        state = self._resume.state
        assert state is not None
        if self._resume.over(epoch) and offset >= (state.packets_offset, state.metadata_offset)[topic]:
            self.counts["earlier-epoch"] += 1
            self._over += 1
        return True

    def _accept(self, events: Iterable[Joined | EpochEnd], now_ms: int, at_end: bool) -> None:
        for event in events:
            if isinstance(event, Joined) and event.epoch > self._began:
                self._needed.begin(event.epoch, event.offsets)
                self._began = event.epoch
            for one in self._backlog.take(event, now_ms, at_end, self.overrun):
                self._pool.push(self._queue, one)
