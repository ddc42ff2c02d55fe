"""The clock of a source: the time at which a viewer with a clock would see each picture.

The rules are the same for every source, and are applied in presentation order (presentation.py), so that B-pictures, which
are decoded later than they are shown, need no special rules.

Which clock is used
- The container's presentation times, if it has any.
- A file without them (raw H.264 or HEVC, AVI): constant steps at the stream's stated rate, or at 25 pictures/s, which is
  announced. AVI numbers pictures in decode order: the numbers are reassigned in presentation order.
- A live source without them (raw video over TCP, UDP or a pipe; MJPEG over HTTP, for which FFmpeg invents 25 pictures/s):
  the arrival time of each picture.
- A live source whose times do not keep pace with the wall clock (TOLERANCE_S apart): from then on the arrival time of each
  picture.
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

Guarantees for every source: times increase strictly. Live: from START_S on, when the initially buffered pictures have
arrived, time stays within TOLERANCE_S (plus four pictures of a slow camera) of the wall clock. Time advances while pictures
come, whatever their stamps. Decisions depend only on stamps, picture order and arrival times. Each kind of correction is
announced once and counted.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from fractions import Fraction

from av.format import ContainerFormat
from av.video.stream import VideoStream

TOLERANCE_S = 10.0
"""How far a live source's time may be from the wall clock. A network that stalls for this long has failed anyway."""

FILE_GAP_S = 60.0
TIMELINE_GAP_S = 366 * 86_400.0
BACK_S = 0.5
_JITTER_S = 1.0  # plus one step: how much earlier, by its stamp, a live picture may arrive than any before it
_STEP_S = 1.0  # pictures of one clock are at most this far apart, or eight steps, when two of them confirm a jump
START_S, _START_PICTURES = 5.0, 10  # after which a live source is at its own pace: its initial buffer is empty
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
    "missing times": "some pictures have no time of their own; they follow at the pace of those before them ({} each)",
    "other pace": "its times do not keep the pace of the wall clock; from now on the time at which pictures arrive is used",
}
"""Kinds of corrections, and how the first of each kind is announced."""

_BY_ARRIVAL = "its pictures have no times; the time at which they arrive is used"
_ASSUMED = "neither its pictures nor its stream say when pictures are shown; {:g} pictures/s are assumed"


@dataclass(frozen=True, slots=True)
class Rules:
    """What is known about a source's times.

    `unit`: seconds per unit of all times. `frame`: duration of a picture, in units, as far as the source says. `stamped`: it
    has presentation times; `numbered`: decoding times only; `rate_stated`: at least a frame rate. `live`: pictures have
    arrival times; `paced`: never faster than real time. `one_timeline`: a file whose gaps are real, whatever their length.
    """

    unit: Fraction
    frame: int
    stamped: bool = True
    numbered: bool = False
    rate_stated: bool = True
    live: bool = False
    paced: bool = False
    one_timeline: bool = True

    def units(self, seconds: float) -> int:
        return max(1, round(seconds * self.unit.denominator / self.unit.numerator))


def track_rules(track: VideoStream, container: ContainerFormat, *, live: bool, paced: bool) -> Rules:
    """The rules for a track of an opened source. `paced`: it cannot deliver faster than real time."""
    none = bool(container.flags & _NO_TIMESTAMPS) or container.name.endswith("_pipe")
    numbered = container.name == "avi"
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
        # Live. Newest arrival time, and time spent waiting for arrivals; the highest lead of a time over its arrival.
        self._arrived, self._waited, self._high = 0, 0, 0
        self._settled: int | None = None  # the highest lead after the start
        self._count = 0
        self._grown = 0  # by how much it rose until then, not counting buffered pictures
        self._slow = 0
        self._off_pace = 0  # consecutive pictures too far from the wall clock
        self._drawn = 0

    @property
    def step(self) -> int:
        """Time from one picture to the next."""
        return max(1, min(self._steps))

    @property
    def _jitter(self) -> int:
        """How much the lead of a live picture may exceed all earlier ones."""
        step = min(self.step, self._rules.units(2.0))
        if self._settled is None:
            return max(0, self._rules.units(START_S) - self._grown) + step
        return self._rules.units(_JITTER_S) + step

    def use_arrival(self) -> None:
        """The source turned out to have no times."""
        self.by_arrival = True
        self.notices.append(_BY_ARRIVAL)

    def ahead(self, stamp: int | None) -> bool:
        """Whether a file's picture must be confirmed by the one after it."""
        if stamp is None or self.last is None or self._rules.live:
            return False
        return stamp + self.shift - self.last > max(self._rules.units(_AHEAD_S), 4 * self.step)

    def place(self, stamp: int | None, arrived: int = 0, waited: int = 0, following: int | None = None) -> int:
        """The time of the next picture. `arrived`, `waited`: live, the wall clock, and the part of it spent waiting for the
        source. `following`: files, the stamp of the picture shown after this one."""
        if (before := self.last) is None:
            time = 0 if stamp is None or self.by_arrival else stamp
            self._high = time - arrived
            self._accept_stamp(stamp)
            advanced = waiting = 0
        else:
            since = arrived - self._arrived
            if self.by_arrival:
                time = max(before + 1, arrived + self._high)
            elif stamp is None or self._repeated(stamp):
                time = self._estimate(arrived, 0)
                if self._rules.stamped:
                    self._correct("missing times", self.step)
            else:
                time = self._own(stamp, before, arrived, since, following)
            advanced, waiting = time - before, waited - self._waited
        self.last, self._arrived, self._waited = time, arrived, waited
        if self._rules.live and not self.by_arrival:
            self._keep_pace(time - arrived, advanced, waiting)
        return time

    def _own(self, stamp: int, before: int, arrived: int, since: int, following: int | None) -> int:
        """The stamp as a time, if it is plausible."""
        near = max(self._rules.units(_STEP_S), 8 * self.step)
        for wrap in _WRAPS:
            if 0 < stamp + self.shift + wrap - before <= near + since:
                self.shift += wrap
        self._resolve_pending(stamp, before + max(self.step, since), near + since)
        delta = stamp + self.shift - before
        if delta <= 0:
            estimated = min(self._estimated * self.step, self._rules.units(2.0))
            if delta < -self._rules.units(BACK_S) - estimated:
                return self._reject_stamp(stamp, before, arrived, since)
            self._correct("times going back", delta)
            self._stood += 1
            if self._stood * self.step > self._rules.units(BACK_S):
                return self._estimate(arrived, since)  # they do not catch up
            self._estimated += 1
            return before + 1
        if self._rules.live:
            if stamp + self.shift - arrived > self._high + self._jitter:
                return self._reject_stamp(stamp, before, arrived, since)
        elif self.ahead(stamp):
            if (
                following is not None
                and following <= stamp
                and following + self.shift >= before - self._rules.units(BACK_S)
            ):
                self._correct("wrong times", delta)
                return self._estimate(0, 0, following + self.shift - before)
            if delta > self._rules.units(TIMELINE_GAP_S if self._rules.one_timeline else FILE_GAP_S):
                self.shift -= delta - self.step
                self._correct("clock jumps", delta)
                self._last_accepted = None
        self._accept_stamp(stamp)
        return stamp + self.shift

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
        time = self._estimate(arrived, since)
        self._pending = _PendingJump(time - stamp, stamp + self.shift - before)
        return time

    def _estimate(self, arrived: int, since: int, room: int = 0) -> int:
        """A time for a picture whose own is missing or wrong: one step after the previous one, within half the `room` to the
        next if that is known; live, `since` after it, and hardly further ahead of the wall clock than any earlier one."""
        assert self.last is not None
        self._estimated += 1
        step = self.step // 2 if self._repeats == 1 else max(self.step, since)  # two fields may share one time
        if self._rules.live:
            step = min(step, arrived + self._high + self._jitter - self.last)
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

    def _keep_pace(self, lead: int, advanced: int, waiting: int) -> None:
        """Corrects a live clock towards the wall clock, and abandons it when it runs at its own pace."""
        if not self._estimated:
            if lead > self._high and advanced > 2 * max(self._steps):
                self._grown += lead - self._high
            self._high = max(self._high, lead)
        slack = min(
            4 * self.step, self._rules.units(TOLERANCE_S)
        )  # pictures of slow cameras arrive unevenly, since they wait for those shown before them
        limit = self._rules.units(TOLERANCE_S) + slack
        # Only waiting counts: pictures fetched late because the brokers were slow have waited for us.
        self._slow = max(0, self._slow + waiting - advanced)
        off = self._slow
        if self._settled is None:
            self._count += 1
            if self._count > _START_PICTURES and self._arrived >= self._rules.units(START_S):
                self._settled = self._high
        elif abs(lead - self._settled) > self._rules.units(1.0) + slack:
            correction, self._drawn = divmod(self._drawn + advanced, 200)
            self.shift += correction if lead < self._settled else -correction
            if self._rules.paced and lead - self._settled > limit:
                self._high, off = lead, lead - self._settled
        # Not for a single picture: the last one of a camera that fell silent comes out only after the time-out.
        self._off_pace = self._off_pace + 1 if off > limit else 0
        if self._off_pace > 1:
            self.by_arrival = True
            self._correct("other pace")

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
