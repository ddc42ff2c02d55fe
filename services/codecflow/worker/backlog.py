"""What happens to a live stream that is behind: it waits, skips to its newest keyframe, or is thinned.

Decided where records are read, so that a sampler remains a function of its events. A picture is late if it was captured more
than `after_s` seconds ago and more of its partition is still unread: a camera with a wrong clock is not late as long as the
worker keeps up. Two kinds of pictures are never late: those that are not live (a file published as fast as possible), and
those that are read again after a take-over as context for later windows.

`skip` also applies, whatever the pictures' age, to a stream that would hold up the others of its partition: while its
sampler gets more than it can decode, and while a window of it has waited for the engine for longer than `after_s`.
"""

from __future__ import annotations

from fractions import Fraction

from codecflow.messages import CodedPicture

from .join import EpochEnd, Joined
from .resume import Resume
from .sampler_events import Event, Skipped, Thin
from .settings import WhenBehind


class Backlog:
    """The joined pictures of one stream on their way to its sampler.

    `behind_s`: how late the newest picture was read; None before the first one and after the end of its epoch. `newest_ms`:
    capture time of that picture. `skipped_s`: seconds of pictures skipped in the episode that `take` or `caught_up` has just
    ended (see `take_episode`)."""

    def __init__(self, policy: WhenBehind, resume: Resume, max_bytes: int) -> None:
        self.behind_s: float | None = None
        self.newest_ms = 0
        self._policy, self._resume, self._max_bytes = policy, resume, max_bytes
        self._skipping: list[Joined] | None = None  # the newest keyframe and the pictures after it
        self._from_ms = 0
        self._ended_episode: tuple[float, float] | None = None
        self._thin = False
        self._past_context = -1  # the epoch whose pictures are no longer only context
        self.live = False
        """Whether the newest picture is of a live source."""
        self.late = False
        """Whether the newest picture could be late: live, and not context."""
        self.may_skip = False
        """Whether the newest picture could be skipped."""
        self.nbytes = 0
        """Bytes of pictures held while skipping."""

    def take(self, event: Joined | EpochEnd, now_ms: int, at_end: bool, overrun: bool = False) -> list[Event]:
        """Events to pass to the sampler. `at_end`: the partition was read to its end just before. `overrun`: the stream
        would hold up others (only where `may_skip`)."""
        if isinstance(event, EpochEnd):
            self.behind_s = None  # late or not, nothing is missing now
            return [*self._finish(now_ms), event]
        picture = event.picture
        if picture is None:
            return self._pass(event)
        self.newest_ms = picture.captured_at_ms
        self.behind_s = (now_ms - self.newest_ms) / 1000
        self.live = picture.live
        self.late = may_be_late = picture.live and not self._is_context(event, picture)
        self.may_skip = may_be_late and self._policy.policy == "skip"
        late = may_be_late and (overrun or (not at_end and self.behind_s > self._policy.after_s))
        if self._policy.policy == "thin":
            thin, self._thin = self._thin, late
            return [event] if thin == late else [Thin(late), event]
        if self._skipping is None:
            if not late or self._policy.policy == "wait":
                return [event]
            self._skipping, self._from_ms = [], picture.captured_at_ms
        if picture.keyframe:
            self._skipping, self.nbytes = [], 0
        held = self._pass(event)
        self.nbytes += len(picture.data) if self._skipping else 0
        if overrun:
            if self.nbytes > self._max_bytes:
                self._skipping, self.nbytes = [], 0
            return held
        fresh = picture.keyframe and (at_end or self.behind_s < self._policy.after_s / 2)
        return held + self._finish(now_ms) if fresh or self.nbytes > self._max_bytes else held

    def caught_up(self, now_ms: int, overrun: bool = False) -> list[Event]:
        """The partition has been read to its end: no keyframe is newer than the one held."""
        return self._finish(now_ms) if self._skipping and not overrun else []

    def take_episode(self) -> tuple[float, float] | None:
        """(seconds behind, seconds of pictures skipped) of the episode that has ended since the last call."""
        episode, self._ended_episode = self._ended_episode, None
        return episode

    def _pass(self, event: Joined) -> list[Event]:
        if self._skipping is None:
            return [event]
        keyframe = event.picture is not None and event.picture.keyframe
        if self._skipping or keyframe:
            self._skipping.append(event)
        return []

    def _finish(self, now_ms: int) -> list[Event]:
        """Continue at the newest keyframe."""
        held, self._skipping, self.nbytes = self._skipping, None, 0
        if held is None:
            return []
        first = held[0] if held else None
        to_ms = first.picture.captured_at_ms if first is not None and first.picture is not None else now_ms
        self._ended_episode = ((now_ms - self._from_ms) / 1000, (to_ms - self._from_ms) / 1000)
        return [Skipped(None if first is None else first.offsets), *held]

    def _is_context(self, event: Joined, picture: CodedPicture) -> bool:
        """Whether this picture is read again only as context for later windows."""
        if event.epoch == self._past_context:
            return False
        time = None
        if event.metadata is not None:
            time = Fraction(picture.pts - event.metadata.start_pts) * picture.time_base
        if self._resume.only_context(event.epoch, time):
            return True
        self._past_context = event.epoch
        return False
