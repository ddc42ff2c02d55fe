"""The clock of a source: the time at which a viewer with a clock of his own would see one picture after another.

The same rules for every source, applied in the order in which pictures are shown (presentation.py), so that B-pictures,
which are decoded later than they are shown, need no rules of their own.

Which clock is believed
- The container's presentation times, wherever there are any.
- A file without them (raw H.264 or HEVC, AVI): one picture after another at the rate that the stream states, or 25
  pictures/s, which is announced. AVI numbers pictures in decode order: the numbers are given out in the order shown.
- A live source without them (raw video over TCP, UDP or a pipe; MJPEG over HTTP, for which FFmpeg invents 25
  pictures/s): the time at which each picture arrives.
- A live source whose times do not keep the pace of the wall clock (TOLERANCE_S apart): from then on the time at which
  each picture arrives.
- A picture without a time among others that have one: its neighbours' pace.

What a step of the source's times is taken for (`shift` is what was added to them so far)
- The wrap of a 32-bit or 33-bit counter: time goes on; nothing is announced.
- Back by up to BACK_S (jittery stamps, a clock that was adjusted): pictures follow as close together as the time base
  allows, until the source's time has caught up.
- Further back, or ahead where that is no gap: the picture is put one picture after the one before it (live: as much
  later as it arrived later). If the next picture agrees with it, the clock was set or files were joined: `shift` changes.
  If the next picture agrees with those before, it was one wrong stamp.
- Ahead, live: a gap if the wall clock advanced as well, or if pictures that were late catch up; otherwise a jump.
- Ahead, file: only the container's own time exists. A gap if the next picture goes on from there, of any length (up to a
  year) in containers that keep one timeline (MP4, Matroska, AVI); in those that record a transmission's clock (MPEG-TS
  and -PS, FLV) up to FILE_GAP_S, beyond which a clock was set or files were joined.
- A live clock that is slightly fast or slow is followed, and drawn towards the wall clock by 0.5 % once it is 1 s off.

Guarantees for every source: times increase strictly. Live: from START_S on, when what was buffered at the start has come,
time stays within TOLERANCE_S (and four pictures of a slow camera) of the wall clock. Whatever the stamps are, time advances
while pictures come. Decisions depend on stamps, picture order and times of arrival only. Each kind of correction is
announced once and counted.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from fractions import Fraction

from av.format import ContainerFormat
from av.video.stream import VideoStream

TOLERANCE_S = 10.0
"""How far a live source's time may be from the wall clock. A network that stalls for this long is lost anyway."""

FILE_GAP_S = 60.0
TIMELINE_GAP_S = 366 * 86_400.0
BACK_S = 0.5
_JITTER_S = 1.0  # and a step: how much earlier, measured by its stamp, a live picture may come than any before it
_STEP_S = 1.0  # pictures of one clock are at most so far apart, or eight steps, when two of them confirm a jump
START_S, _START_PICTURES = 5.0, 10  # after which a live source is at its own pace: what was buffered has come
_AHEAD_S = 0.25  # or four steps: a file's time that goes ahead by more must be confirmed by the next picture
_FASTEST = 500  # pictures/s; what claims more, such as 1000 or 90000, means the unit of its times
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
    """What is known of a source's times.

    `unit`: seconds per unit of all times. `frame`: duration of a picture, in units, as far as the source says. `stamped`:
    it has presentation times; `numbered`: decoding times only; `rate_stated`: or at least a frame rate. `live`: pictures
    come with times of arrival; `paced`: never faster than in real time. `one_timeline`: a file whose gaps are real,
    whatever their length.
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
    """The rules for a track of an opened source. `paced`: it cannot come faster than in real time."""
    none = bool(container.flags & _NO_TIMESTAMPS) or container.name.endswith("_pipe")
    numbered = container.name == "avi"
    stated = track.codec_context.framerate
    rates = [track.average_rate, stated, track.guessed_rate] if not none else [stated]
    rate = next((Fraction(rate) for rate in rates if rate and rate <= _FASTEST), None)
    unit = track.time_base or Fraction(1, 90_000)
    if live and none:
        unit = Fraction(1, 90_000)  # not the one of an invented rate
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
class _Doubt:
    """A picture that was not given its own time: the shift with which it would have had the one it got, and how far off
    it was."""

    shift: int
    off: int


class SourceClock:
    """The time of one picture after another, in the order in which they are shown. Units as in `rules`."""

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
        self._doubt: _Doubt | None = None
        self._believed: int | None = None  # the newest stamp that was
        self._guessed = 0  # pictures placed since
        self._stood = 0  # of them, those that waited for the source's time to catch up
        self._stamp: int | None = None
        self._repeats = 0
        # Live. Time of the newest arrival, and of waiting for arrivals; the highest lead of a time over its arrival.
        self._arrived, self._waited, self._high = 0, 0, 0
        self._settled: int | None = None  # the highest lead after the start
        self._count = 0
        self._grown = 0  # by how much it rose until then, other than by pictures that were there already
        self._slow = 0
        self._off_pace = 0  # pictures in a row that are too far from the wall clock
        self._drawn = 0

    @property
    def step(self) -> int:
        """From one picture to the next."""
        return max(1, min(self._steps))

    @property
    def _jitter(self) -> int:
        """How much higher than any before it the lead of a live picture may be."""
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
        """The time of the next picture. `arrived`, `waited`: live, the wall clock, and the part of it that was spent waiting
        for the source. `following`: files, the stamp of the picture shown after this one."""
        if (before := self.last) is None:
            time = 0 if stamp is None or self.by_arrival else stamp
            self._high = time - arrived
            self._believe(stamp)
            advanced = waiting = 0
        else:
            since = arrived - self._arrived
            if self.by_arrival:
                time = max(before + 1, arrived + self._high)
            elif stamp is None or self._repeated(stamp):
                time = self._guess(arrived, 0)
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
        """The stamp as a time, if it is one that can be believed."""
        near = max(self._rules.units(_STEP_S), 8 * self.step)
        for wrap in _WRAPS:
            if 0 < stamp + self.shift + wrap - before <= near + since:
                self.shift += wrap
        self._settle_doubt(stamp, before + max(self.step, since), near + since)
        delta = stamp + self.shift - before
        if delta <= 0:
            guessed = min(self._guessed * self.step, self._rules.units(2.0))
            if delta < -self._rules.units(BACK_S) - guessed:
                return self._mistrust(stamp, before, arrived, since)
            self._correct("times going back", delta)
            self._stood += 1
            if self._stood * self.step > self._rules.units(BACK_S):
                return self._guess(arrived, since)  # they do not catch up
            self._guessed += 1
            return before + 1
        if self._rules.live:
            if stamp + self.shift - arrived > self._high + self._jitter:
                return self._mistrust(stamp, before, arrived, since)
        elif self.ahead(stamp):
            if (
                following is not None
                and following <= stamp
                and following + self.shift >= before - self._rules.units(BACK_S)
            ):
                self._correct("wrong times", delta)
                return self._guess(0, 0, following + self.shift - before)
            if delta > self._rules.units(TIMELINE_GAP_S if self._rules.one_timeline else FILE_GAP_S):
                self.shift -= delta - self.step
                self._correct("clock jumps", delta)
                self._believed = None
        self._believe(stamp)
        return stamp + self.shift

    def _settle_doubt(self, stamp: int, expected: int, near: int) -> None:
        """Whether the picture before was the first after a jump: this one tells."""
        if (doubt := self._doubt) is None:
            return
        self._doubt = None
        assert self.last is not None
        off = abs(stamp + doubt.shift - expected)
        if 0 < stamp + doubt.shift - self.last <= near and off < abs(stamp + self.shift - expected):
            self.shift, self._believed = doubt.shift, None
            self._correct("clock jumps", doubt.off)
        else:
            self._correct("wrong times", doubt.off)

    def _mistrust(self, stamp: int, before: int, arrived: int, since: int) -> int:
        time = self._guess(arrived, since)
        self._doubt = _Doubt(time - stamp, stamp + self.shift - before)
        return time

    def _guess(self, arrived: int, since: int, room: int = 0) -> int:
        """A time for a picture whose own is missing or wrong: a step after the one before, within half the `room` to the
        next if that is known; live, `since` after it, and hardly further ahead of the wall clock than any before."""
        assert self.last is not None
        self._guessed += 1
        step = self.step // 2 if self._repeats == 1 else max(self.step, since)  # two fields may have one time
        if self._rules.live:
            step = min(step, arrived + self._high + self._jitter - self.last)
        if room > 1:
            step = min(step, room // 2)
        return self.last + max(1, step)

    def _repeated(self, stamp: int) -> bool:
        self._repeats = self._repeats + 1 if stamp == self._stamp else 0
        self._stamp = stamp
        return self._repeats > 0

    def _believe(self, stamp: int | None) -> None:
        """What a step is, is learned from stamps that are believed."""
        if stamp is not None and self._believed is not None and stamp > self._believed:
            self._steps.append((stamp - self._believed) // (self._guessed + 1))
        if stamp is not None:
            self._believed, self._guessed, self._stood, self._stamp = stamp, 0, 0, stamp

    def _keep_pace(self, lead: int, advanced: int, waiting: int) -> None:
        """Draws a live clock towards the wall clock, and gives it up when it has a pace of its own."""
        if not self._guessed:
            if lead > self._high and advanced > 2 * max(self._steps):
                self._grown += lead - self._high
            self._high = max(self._high, lead)
        slack = min(
            4 * self.step, self._rules.units(TOLERANCE_S)
        )  # slow cameras come unevenly, since pictures wait for those shown before them
        limit = self._rules.units(TOLERANCE_S) + slack
        # Only waiting counts: pictures that are fetched late, since the brokers were slow, have waited for us.
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
        # Not one picture alone: the last one of a camera that fell silent comes out only when the time-out has passed.
        self._off_pace = self._off_pace + 1 if off > limit else 0
        if self._off_pace > 1:
            self.by_arrival = True
            self._correct("other pace")

    def _correct(self, kind: str, off: int = 0) -> None:
        self.corrected[kind] += 1
        if self._rules.live and self._rules.unit == _RTP_UNIT:
            off = (off + (_WRAPS[0] >> 1)) % _WRAPS[0] - (
                _WRAPS[0] >> 1
            )  # a counter that is set back looks as if it wrapped
        if self.corrected[kind] == 1:
            self.notices.append(CORRECTIONS[kind].format(_duration(off * self._rules.unit)))


def _duration(seconds: Fraction) -> str:
    """With its sign, in the largest unit that shows it."""
    for name, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if abs(seconds) >= 2 * length:
            return f"{float(seconds / length):+.1f} {name}"
    return f"{float(seconds):+.2f} s"
