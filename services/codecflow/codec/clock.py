"""The clock of a source: the time at which a viewer with a clock would see each picture.

The rules are the same for every source, and are applied in presentation order (presentation.py), so that B-pictures, which
are decoded later than they are shown, need no special rules.

Which clock is used
- The container's presentation times, if it has any.
- A file without them (raw H.264 or HEVC, AVI): constant steps at the stream's stated rate, or at 25 pictures/s, which is
  announced. AVI numbers pictures in decode order: the numbers are reassigned in presentation order.
- A live source without them (raw video over TCP, UDP or a pipe; MJPEG over HTTP, for which FFmpeg invents 25 pictures/s):
  the arrival time of each picture.
- A live source whose times do not keep pace with the wall clock (pace.py): from then on the arrival time of each picture.
- A source most of whose times make no sense, each by the one before (all alike, at random, decreasing): from then on none is
  believed; constant steps in a file, arrival times live.
- A picture without a time among others that have one: its neighbours' pace.

How a jump in the source's times is interpreted (`shift` is the offset added to them so far)
- The wrap of a 32-bit or 33-bit counter: time continues; nothing is announced.
- Back by up to BACK_S (jittery stamps, an adjusted clock): pictures follow as close together as the time base allows, until
  the source's time has caught up.
- Further back, or ahead without being a gap: the picture is placed one picture after the previous one (live: later by the
  difference in arrival). If the next picture agrees with it, the clock was set or files were joined: `shift` changes. If the
  next picture agrees with the earlier ones, it was a single wrong stamp.
- Ahead, live: a gap if the wall clock advanced as well, or if late pictures catch up; otherwise a jump.
- Ahead, file: only the container's own time exists. A gap if the next picture continues from there, of any length (up to a
  year) in containers that keep one timeline (MP4, Matroska, AVI); in those that record a transmission's clock (MPEG-TS and
  -PS, FLV) up to FILE_GAP_S, beyond which a clock was set or files were joined.
- A live clock that is slightly fast or slow is followed, and corrected towards the wall clock by 0.5 % once it is 1 s off.

Guarantees for every source: times increase strictly. Live: from pace.START_S on, when the initially buffered pictures have
arrived, time stays within pace.TOLERANCE_S (plus four pictures of a slow camera) of the wall clock. Time advances while
pictures come, whatever their stamps. Decisions depend only on stamps, picture order and arrival times. Each kind of
correction is announced once and counted.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from fractions import Fraction

from av.format import ContainerFormat
from av.video.stream import VideoStream

from .pace import Pace

FILE_GAP_S = 60.0
TIMELINE_GAP_S = 366 * 86_400.0
BACK_S = 0.5
_STEP_S = 1.0  # pictures of one clock are at most this far apart, or eight steps, when two of them confirm a jump
_SENSELESS = 24  # times that do not follow the one before count two, others take one back
_AHEAD_S = 0.25  # or four steps: a larger jump ahead in a file must be confirmed by the next picture
_FASTEST = 500  # pictures/s; higher claims, such as 1000 or 90000, are the unit of its times
_ASSUMED_RATE = 25
_NO_TIMESTAMPS, _DISCONTINUOUS = 0x80, 0x200  # AVFMT_NOTIMESTAMPS, AVFMT_TS_DISCONT
_RTP_UNIT = Fraction(1, 90_000)
_WRAPS = (1 << 32, 1 << 33)

CORRECTIONS = {
    "clock jumps": "its clock jumped by {}; time continues without the jump",
    "wrong times": "a picture's time is {} off and fits none of its neighbours; theirs are used instead, and so from now on",
    "times going back": "times go back a little ({}); such pictures follow closely on the one before",
    "missing times": "some pictures have no time stamp; they follow at the pace of those before them ({} each)",
    "other pace": "its times do not keep the pace of the wall clock; from now on the time at which pictures arrive is used",
}
"""Kinds of corrections, and how the first of each kind is announced."""

_BY_ARRIVAL = "its pictures have no times; the time at which they arrive is used"
_ASSUMED = "neither its pictures nor its stream say when pictures are shown; {:g} pictures/s are assumed"


@dataclass(frozen=True, slots=True)
class Rules:
    """What is known about a source's times.

    `unit`: seconds per unit of all times. `frame`: duration of a picture, in units, as far as the source says.
    `stamped`: it has presentation times; `numbered`: only one number per picture, in decode order. `decoding`: they are
    decoding times: the presentation times of pictures that came before, as many as are reordered. `rate_stated`: at
    least a frame rate. `live`: pictures have arrival times; `paced`: never faster than real time. `one_timeline`: a
    file whose gaps are real, whatever their length.
    """

    unit: Fraction
    frame: int
    stamped: bool = True
    numbered: bool = False
    decoding: bool = False
    rate_stated: bool = True
    live: bool = False
    paced: bool = False
    one_timeline: bool = True

    def units(self, seconds: float) -> int:
        return max(1, round(seconds * self.unit.denominator / self.unit.numerator))


def track_rules(track: VideoStream, container: ContainerFormat, *, live: bool, paced: bool) -> Rules:
    """The rules for a track of an opened source. `paced`: it cannot deliver faster than real time."""
    none = bool(container.flags & _NO_TIMESTAMPS) or container.name.endswith("_pipe")
    # ASF has one time per picture, its decoding time; FFmpeg guesses the other one where there are B-pictures.
    decoding = container.name == "asf" and not live
    numbered = container.name == "avi" or decoding
    stated = track.codec_context.framerate
    rates = [track.average_rate, stated, track.guessed_rate] if not none else [stated]
    rate = next((Fraction(rate) for rate in rates if rate and rate <= _FASTEST), None)
    unit = track.time_base or Fraction(1, 90_000)
    if live and none:
        unit = Fraction(1, 90_000)  # not that of an invented rate
    return Rules(
        unit=unit,
        frame=max(1, round(1 / (rate or _ASSUMED_RATE) / unit)),
        stamped=not (none or numbered),
        numbered=numbered,
        decoding=decoding,
        rate_stated=rate is not None or not none,
        live=live,
        paced=live and paced,
        one_timeline=not (container.flags & _DISCONTINUOUS or container.name in ("flv", "live_flv")),
    )


@dataclass(frozen=True, slots=True)
class _PendingJump:
    """A picture that did not get its own time: the shift that would give it the time it got, and how far off it was."""

    shift: int
    off: int


class SourceClock:
    """The time of each picture, in presentation order. Units as in `rules`."""

    def __init__(self, rules: Rules) -> None:
        self.last: int | None = None
        self.shift = 0
        self.corrected: Counter[str] = Counter()
        self.notices: list[str] = []
        self.by_arrival = False
        self._rules = rules
        if rules.live and not rules.stamped:
            self.use_arrival()
        elif not rules.rate_stated:
            self.notices.append(_ASSUMED.format(float(1 / (rules.frame * rules.unit))))
        self._steps: deque[int] = deque([rules.frame], maxlen=3)
        self._pending: _PendingJump | None = None
        self._last_accepted: int | None = None  # the newest accepted stamp
        self._estimated = 0  # pictures placed since
        self._stood = 0  # those of them that waited for the source's time to catch up
        self._stamp: int | None = None
        self._repeats = 0
        self._senseless = 0
        self._arrived = 0
        self._pace = Pace(rules.units, paced=rules.paced)

    @property
    def step(self) -> int:
        """Time from one picture to the next."""
        return max(1, min(self._steps))

    def use_arrival(self) -> None:
        """The source turned out to have no times."""
        self.by_arrival = True
        self.notices.append(_BY_ARRIVAL)

    def awaits(self, stamp: int | None) -> bool:
        """Whether a file's picture must wait for the one after it: it has no time, or one that is far ahead."""
        if self.last is None or self._rules.live:
            return False
        return self._rules.stamped if stamp is None else self._ahead(stamp)

    def place(self, stamp: int | None, arrived: int = 0, waited: int = 0, following: int | None = None) -> int:
        """The time of the next picture. `arrived`, `waited`: live, the wall clock, and the part of it spent waiting for the
        source. `following`: files, the stamp of the picture shown after this one."""
        since, self._arrived = arrived - self._arrived, arrived
        if self._senseless < _SENSELESS and not (self._rules.live and self._pace.buffered(waited)):
            self._judge(stamp, since)
        if self._senseless >= _SENSELESS and not self._rules.live:
            stamp = following = None
        if (before := self.last) is None:
            self.last = 0 if stamp is None or self.by_arrival else stamp
            self._pace.begin(self.last, arrived, waited)
            self._accept_stamp(stamp)
            return self.last
        if self.by_arrival:
            time = max(before + 1, arrived + self._pace.high)
        elif stamp is None or self._repeated(stamp):
            room = 0 if stamp is not None or following is None else following + self.shift - before
            time = self._estimate(arrived, 0, room)
            if self._rules.stamped:
                self._correct("missing times", time - before)
        else:
            time = self._own(stamp, before, arrived, since, following)
        if self._rules.live and not self.by_arrival:
            self.shift += self._pace.follow(
                time, arrived, waited, own=not self._estimated, step=self.step, longest=max(self._steps)
            )
            if self._senseless >= _SENSELESS:
                self._pace.high = max(self._pace.high, time - arrived)  # of buffered pictures, a step apart
            if self._pace.lost or self._senseless >= _SENSELESS:
                self.by_arrival = True
                self._correct("other pace")
        self.last = time
        return time

    def _judge(self, stamp: int | None, since: int) -> None:
        """Counts stamps that cannot follow the one before, whatever the clock was set to."""
        if stamp is None or self._stamp is None:
            return
        furthest = self._near + since if self._rules.live else self._longest_gap
        sensible = 0 < stamp - self._stamp <= furthest
        self._senseless = max(0, self._senseless - 1) if sensible else self._senseless + 2
        if self._senseless >= _SENSELESS:
            self._steps, self._repeats = deque([self._rules.frame], maxlen=3), 0

    @property
    def _near(self) -> int:
        """How far apart pictures of one clock are at most, when two of them confirm a jump."""
        return max(self._rules.units(_STEP_S), 8 * self.step)

    @property
    def _longest_gap(self) -> int:
        return self._rules.units(TIMELINE_GAP_S if self._rules.one_timeline else FILE_GAP_S)

    def _ahead(self, stamp: int) -> bool:
        assert self.last is not None
        return stamp + self.shift - self.last > max(self._rules.units(_AHEAD_S), 4 * self.step)

    def _own(self, stamp: int, before: int, arrived: int, since: int, following: int | None) -> int:
        """The stamp as a time, if it is plausible."""
        near = self._near
        for wrap in _WRAPS:
            if 0 < stamp + self.shift + wrap - before <= near + since:
                self.shift += wrap
        self._resolve_pending(stamp, before + max(self.step, since), near + since)
        delta = stamp + self.shift - before
        if delta <= 0:
            return self._behind(stamp, before, arrived, since)
        if self._rules.live:
            if stamp + self.shift - arrived > self._pace.high + self._pace.jitter(self.step):
                return self._reject_stamp(stamp, before, arrived, since)
        elif self._ahead(stamp):
            if (
                following is not None
                and following <= stamp
                and following + self.shift >= before - self._rules.units(BACK_S)
            ):
                self._correct("wrong times", delta)
                return self._estimate(0, 0, following + self.shift - before)
            if delta > self._longest_gap:
                self.shift -= delta - self.step
                self._correct("clock jumps", delta)
                self._last_accepted = None
        self._accept_stamp(stamp)
        return stamp + self.shift

    def _behind(self, stamp: int, before: int, arrived: int, since: int) -> int:
        """A time for a picture whose own is not after that of the picture before."""
        if self._estimated and self._last_accepted is not None and stamp > self._last_accepted:
            self._accept_stamp(stamp)  # the estimated steps before it were too long
            return before + 1
        delta = stamp + self.shift - before
        estimated = min(self._estimated * self.step, self._rules.units(2.0))
        if delta < -self._rules.units(BACK_S) - estimated:
            return self._reject_stamp(stamp, before, arrived, since)
        self._correct("times going back", delta)
        self._stood += 1
        if self._stood * self.step > self._rules.units(BACK_S):
            return self._estimate(arrived, since)  # they do not catch up
        self._estimated += 1
        return before + 1

    def _resolve_pending(self, stamp: int, expected: int, near: int) -> None:
        """Whether the previous picture was the first after a jump; this one decides."""
        if (pending := self._pending) is None:
            return
        self._pending = None
        assert self.last is not None
        off = abs(stamp + pending.shift - expected)
        if 0 < stamp + pending.shift - self.last <= near and off < abs(stamp + self.shift - expected):
            self.shift, self._last_accepted = pending.shift, None
            self._correct("clock jumps", pending.off)
        else:
            self._correct("wrong times", pending.off)

    def _reject_stamp(self, stamp: int, before: int, arrived: int, since: int) -> int:
        time = self._estimate(arrived, max(since, self._pace.expected(arrived) - before if self._rules.live else 0))
        self._pending = _PendingJump(time - stamp, stamp + self.shift - before)
        return time

    def _estimate(self, arrived: int, since: int, room: int = 0) -> int:
        """A time for a picture whose own is missing or wrong: one step after the previous one, within half the `room` to the
        next if that is known; live, `since` after it, and hardly further ahead of the wall clock than any earlier one."""
        assert self.last is not None
        self._estimated += 1
        step = self.step // 2 if self._repeats == 1 else max(self.step, since)  # two fields may share one time
        if self._rules.live:
            step = min(step, arrived + self._pace.high + self._pace.jitter(self.step) - self.last)
        if room > 1:
            step = min(step, room // 2)
        return self.last + max(1, step)

    def _repeated(self, stamp: int) -> bool:
        self._repeats = self._repeats + 1 if stamp == self._stamp else 0
        self._stamp = stamp
        return self._repeats > 0

    def _accept_stamp(self, stamp: int | None) -> None:
        """Learn the step between pictures from accepted stamps."""
        if stamp is not None and self._last_accepted is not None and stamp > self._last_accepted:
            self._steps.append((stamp - self._last_accepted) // (self._estimated + 1))
        if stamp is not None:
            self._last_accepted, self._estimated, self._stood, self._stamp = stamp, 0, 0, stamp

    def _correct(self, kind: str, off: int = 0) -> None:
        self.corrected[kind] += 1
        if self._rules.live and self._rules.unit == _RTP_UNIT:
            off = (off + (_WRAPS[0] >> 1)) % _WRAPS[0] - (
                _WRAPS[0] >> 1
            )  # a counter that is set back looks like a wrap
        if self.corrected[kind] == 1:
            self.notices.append(CORRECTIONS[kind].format(_duration(off * self._rules.unit)))


def _duration(seconds: Fraction) -> str:
    """With its sign, in the largest unit that shows it."""
    for name, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if abs(seconds) >= 2 * length:
            return f"{float(seconds / length):+.1f} {name}"
    return f"{float(seconds):+.2f} s"
