"""Whether the time of a live source keeps the pace of the wall clock.

What is compared is the *lead*: a picture's time minus its arrival. It varies with the network, but never grows for long: a
camera cannot send a picture before it has been captured. It grows only while a buffer at the start is emptied, and shrinks
when the network gets slower. Everything else is a clock with its own pace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median_low

TOLERANCE_S = 10.0
"""How far a live source's time may be from the wall clock. A network that stalls for this long has failed anyway."""

START_S, _START_PICTURES = 5.0, 10
"""After this the initial buffer is empty: a live source is at its own pace."""

_RACED_S = (
    8.0  # plus the unevenness of arrivals: how much the lead may grow at the start with pictures that were waited for
)
_JITTER_S = 1.0  # plus one step: how much earlier, by its stamp, a picture may arrive than any before it
_DRAWN_S, _DRAWN_BY = 1.0, 200  # a difference of more than this, plus the slack, is corrected by 1/200
_WAITED_S = 0.005  # a picture that was waited for less was already buffered

_WATCHED_S = (1.0, 20.0)
"""In this part of the run, while pictures arrive evenly, a wrong pace is noticed at _OFF_S, after _MIN_S and
_MIN_PICTURES."""

_OFF_S, _MIN_S, _MIN_PICTURES = 1.5, 4.0, 8


@dataclass(slots=True)
class _Even:
    """Since when pictures have arrived evenly: the figures then, and how many have come since."""

    time: int
    arrived: int
    waited: int
    high: int
    pictures: int = 0


class Pace:
    """The lead of one source. `high`: the highest so far. `lost`: its time does not keep the pace of the wall clock.

    `units`: turns seconds into the unit of all times. `paced`: the source cannot deliver faster than real time.
    """

    def __init__(self, units: Callable[[float], int], *, paced: bool) -> None:
        self.high, self.lost = 0, False
        self._units, self._paced = units, paced
        self._settled: int | None = None  # the highest lead after the start
        self._count = 0
        self._grown = 0  # by how much it rose until then, not counting buffered pictures
        self._raced = 0  # by how much it rose until then with pictures that were waited for
        self._slow = 0
        self._off = 0  # consecutive pictures too far from the wall clock
        self._drawn = 0
        self._time = self._arrived = self._waited = 0
        self._gaps: deque[int] = deque(maxlen=4)  # between the newest arrivals
        self._leads: deque[int] = deque(maxlen=9)
        self._even: _Even | None = None

    def begin(self, time: int, arrived: int, waited: int) -> None:
        """The first picture."""
        self.high = time - arrived
        self._leads.append(self.high)
        self._time, self._arrived, self._waited = time, arrived, waited

    def jitter(self, step: int) -> int:
        """How much the lead of a picture may exceed all earlier ones."""
        step = min(step, self._units(2.0))
        if self._settled is None:
            return max(0, self._units(START_S) - self._grown) + step
        return self._units(_JITTER_S) + step

    def expected(self, arrived: int) -> int:
        """The time of a picture by its arrival alone. (The last picture before a pause may be complete only after it.)"""
        return arrived + median_low(self._leads)

    def buffered(self, waited: int) -> bool:
        """Whether the next picture was there before it was read."""
        return waited - self._waited <= self._units(_WAITED_S)

    def follow(self, time: int, arrived: int, waited: int, *, own: bool, step: int, longest: int) -> int:
        """The next picture. `waited`: the part of the wall clock until then that was spent waiting for the source: pictures
        fetched late because the brokers were slow have waited for us. `own`: its time is its own, not an estimate. `step`,
        `longest`: the usual and the longest time between the newest pictures. Returns the correction of later times."""
        lead, advanced = time - arrived, time - self._time
        since, waiting = arrived - self._arrived, waited - self._waited
        self._time, self._arrived, self._waited = time, arrived, waited
        self._gaps.append(since)
        self._leads.append(lead)
        uneven = 4 * min(longest, max(self._gaps))
        if own:
            if lead > self.high and advanced > 2 * longest:
                self._grown += lead - self.high
            if lead > self.high and waiting > self._units(_WAITED_S):
                self._raced += lead - self.high
            self.high = max(self.high, lead)
        # Pictures of slow cameras arrive unevenly, since they wait for those shown before them.
        slack = min(4 * step, self._units(TOLERANCE_S))
        limit = self._units(TOLERANCE_S) + slack
        self._slow = max(0, self._slow + waiting - advanced)
        off, correction = self._slow, 0
        if self._settled is None:
            self._count += 1
            if self._count > _START_PICTURES and arrived >= self._units(START_S):
                self._settled = self.high
            if self._paced and self._raced > self._units(_RACED_S) + uneven:
                self.lost = True
        elif abs(lead - self._settled) > self._units(_DRAWN_S) + slack:
            correction, self._drawn = divmod(self._drawn + advanced, _DRAWN_BY)
            correction = correction if lead < self._settled else -correction
            if self._paced and lead - self._settled > limit:
                self.high, off = lead, lead - self._settled
        # One picture is not enough: the last one before a camera falls silent is complete only after the time-out.
        self._off = self._off + 1 if off > limit else 0
        self.lost = self.lost or self._off > 1 or self._wrong_from_the_start(since, uneven)
        return correction

    def _wrong_from_the_start(self, since: int, uneven: int) -> bool:
        begin, end = map(self._units, _WATCHED_S)
        if not begin <= self._arrived <= end:
            return False
        if since > self._units(_OFF_S) + uneven:
            self._even = None
            return False
        if self._even is None:
            self._even = _Even(self._time, self._arrived, self._waited, self.high)
        even, off = self._even, self._units(_OFF_S) + uneven
        even.pictures += 1
        if even.pictures <= _MIN_PICTURES or self._arrived - even.arrived < self._units(_MIN_S):
            return False
        if self._waited - even.waited - (self._time - even.time) > off:
            return True
        return self._paced and self.high - even.high > off
