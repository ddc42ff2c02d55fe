"""Presentation time: when a viewer with a clock would see each picture of a source.

The source's clock (clock.py) gives that time for one picture after another in presentation order. This module puts pictures
into that order. It is read from their headers (order.py) and never derived from stamps, which may be wrong. A picture waits
until those shown before it have arrived: as many as its codec may reorder, none for most cameras, and never more than
MAX_DELAY.

A picture that arrives even later (the track does not state its reordering, and did not need any so far) is placed between
its neighbours, whose times are already fixed; if there is no room between them it is not shown. The count by which headers
order pictures restarts where that is certain: at an IDR picture; where pictures were lost, since nothing up to the next
keyframe can be decoded; at any keyframe that would be shown before earlier pictures, which keyframes never are; and after
more late pictures than any codec can reorder.

Guarantees for every source: in presentation order, times increase strictly. In decode order, decoding times never go back
and are not later than presentation times; presentation times need not increase there. pts and dts of a picture move
together. At most MAX_DELAY pictures are waiting at any time, so output never stops while pictures arrive."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from .clock import Rules, SourceClock
from .order import Key

MAX_DELAY = 34
"""After this many pictures, a frame that has not come never will: 16 frames of reordering (H.264 A.3.1, HEVC A.4.2), as
fields."""

_PROBED = 16  # pictures that may come before the first one with a time


Item = TypeVar("Item")


@dataclass(slots=True)
class _Picture(Generic[Item]):
    item: Item
    key: Key
    stamp: int | None
    dts: int | None
    time: int | None = None
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Timed(Generic[Item]):
    """`item` with its presentation and its decoding time, the latter None if the order of pictures allows none. `shown`:
    False if there was no room left between the pictures shown before and after it."""

    item: Item
    pts: int
    dts: int | None
    shown: bool = True


class Timeline(Generic[Item]):
    """The times of one track's pictures, which go in and come out in decode order. All times are in units of `rules`.

    `depth`: how many pictures may come before one that is shown earlier, if the track does not say. Grows when more do.
    """

    def __init__(self, rules: Rules, depth: int) -> None:
        self._rules = rules
        self._clock = SourceClock(rules)
        self._assumed_depth = self._depth = depth
        self._deepest = 0  # maximum seen
        self._queue: deque[_Picture[Item]] = deque()  # in decode order, not returned yet
        self._held: list[tuple[Key, int, _Picture[Item]]] = []  # in presentation order, without a time yet
        # Decoding time (for containers that have no other), arrival and waiting time of pictures without a time, in decode
        # order: the first of them belong to the next one that is shown.
        self._slots: deque[tuple[int | None, int, int]] = deque()
        self._placed: list[tuple[Key, int]] = []  # the newest with a time, in presentation order
        self._forgotten = 0  # number placed before those
        self._pushed, self._returned = 0, 0
        self._dts: int | None = None
        self._newest: Key = (0, 0)
        self._restarts, self._late = 0, 0

    @property
    def corrected(self) -> Counter[str]:
        """Number of corrections of each kind in CORRECTIONS."""
        return self._clock.corrected

    @property
    def step(self) -> int:
        """Current time from one picture to the next."""
        return self._clock.step

    def take_notices(self) -> list[str]:
        """Announcements since the last call."""
        notices, self._clock.notices = self._clock.notices, []
        return notices

    def push(
        self,
        item: Item,
        key: Key | None,
        depth: int | None,
        pts: int | None,
        dts: int | None,
        *,
        shown: bool = True,
        arrived_s: float = 0.0,
        waited_s: float = 0.0,
    ) -> list[Timed[Item]]:
        """The pictures whose times are known now. `key`, `depth`: from a ShownOrder. `shown`: False for pictures that are
        decoded only because others refer to them. `arrived_s`, `waited_s`: live, the wall clock since some start, and how
        much of that was spent waiting for pictures."""
        self._pushed += 1
        self._depth = min(max(self._assumed_depth if depth is None else depth, self._deepest), MAX_DELAY)
        sequence, place = self._newest if key is None else (key[0] + self._restarts, key[1])
        picture = _Picture(item, (sequence, place + (key is None)), pts, dts)
        self._newest = max(self._newest, picture.key)
        self._queue.append(picture)
        if not shown and pts is not None:
            picture.time = pts + self._clock.shift
            return self._release()
        slot = dts if self._rules.numbered else None
        per_second = self._rules.unit.denominator / self._rules.unit.numerator
        self._slots.append((slot, round(arrived_s * per_second), round(waited_s * per_second)))
        if self._placed and picture.key < self._placed[-1][0]:
            if not self._restarted(picture):
                self._place_late(picture, depth is not None)
                return self._release()
            self._restarts += 1
            picture.key = self._newest = (self._newest[0] + 1, place)
        self._late = 0
        insort(self._held, (picture.key, self._pushed, picture))
        while len(self._held) > self._depth and self._place_next(waiting=True):
            pass
        while len(self._queue) > MAX_DELAY and self._queue[0].time is None:
            self._place_next(waiting=False)
        return self._release()

    def flush(self) -> list[Timed[Item]]:
        """The pictures still held back, at the end of the track."""
        while self._held:
            self._place_next(waiting=False)
        return self._release()

    def _place_next(self, waiting: bool) -> bool:
        """Assigns a time to the next picture in presentation order; False when more pictures must arrive first."""
        if self._rules.stamped:
            stamps = [picture.stamp for _, _, picture in self._held]
        else:
            stamps = [slot for slot, _, _ in self._slots][self._depth if self._rules.decoding else 0 :] or [None]
        stamp, known = stamps[0], len(self._held) - self._depth
        if waiting and known < 2 and self._clock.awaits(stamp):
            return False
        if stamp is None and self._clock.last is None and self._rules.stamped:
            first = next((index for index, later in enumerate(stamps) if later is not None), None)
            if waiting and known <= (_PROBED if first is None else first):
                return False
            if first is not None:
                stamp = (stamps[first] or 0) - first * self._clock.step
            elif self._rules.live:
                self._clock.use_arrival()
        key, _, picture = self._held.pop(0)
        _, arrived, waited = self._slots.popleft()
        following = stamps[1] if len(stamps) > 1 else None
        picture.time = self._clock.place(stamp, arrived, waited, following)
        self._placed.append((key, picture.time))
        if len(self._placed) > 4 * MAX_DELAY:
            del self._placed[: 2 * MAX_DELAY]
            self._forgotten += 2 * MAX_DELAY
        return True

    def _restarted(self, picture: _Picture[Item]) -> bool:
        """Whether a picture counted as earlier than others that already have times cannot be: no codec reorders that far, or
        that many in a row."""
        self._late += 1
        at = bisect_left(self._placed, (picture.key, 0))
        return len(self._placed) - at > MAX_DELAY or self._late > MAX_DELAY // 2

    def _place_late(self, picture: _Picture[Item], stated: bool) -> None:
        """A time for a picture that should have come before others that already have times. `stated`: the track states its
        reordering, so it may be a picture after a lost one, unless its own time says otherwise."""
        at = bisect_left(self._placed, (picture.key, 0))
        after = self._placed[at][1]
        before = self._placed[at - 1][1] if at else after - 2 * self._clock.step
        time, own = (before + after) // 2, picture.stamp
        if fits := own is not None and own + self._clock.shift < after and (own + self._clock.shift > before or not at):
            assert own is not None
            time = own + self._clock.shift
        if fits or not stated:
            self._deepest = max(self._deepest, min(self._depth + len(self._placed) - at, MAX_DELAY // 2))
        self._slots.popleft()
        picture.time, picture.shown = time, fits or time > before
        if picture.shown:
            self._placed.insert(at, (picture.key, time))

    def _release(self) -> list[Timed[Item]]:
        """Pictures from the head of the queue, as far as they have a time."""
        ready: list[Timed[Item]] = []
        while self._queue and self._queue[0].time is not None:
            latest = min(picture.time for picture in self._queue if picture.time is not None)
            picture = self._queue.popleft()
            assert picture.time is not None
            ready.append(
                Timed(picture.item, picture.time, self._decoding_time(picture, picture.time, latest), picture.shown)
            )
        return ready

    def _decoding_time(self, picture: _Picture[Item], time: int, latest: int) -> int | None:
        """The container's, shifted with the presentation time; else the time of the picture shown `depth` places before this
        one's in decode order. None when it cannot lie between the previous one and `latest`."""
        rank = self._returned - self._depth - self._forgotten
        self._returned += 1
        if self._dts is not None and self._dts > latest:
            return None
        if picture.stamp is not None and picture.dts is not None and self._rules.stamped:
            dts = picture.dts + time - picture.stamp
            if dts <= latest and (self._dts is None or dts > self._dts):
                self._dts = dts
                return dts
        if 0 <= rank < len(self._placed):
            dts = self._placed[rank][1]
        else:
            dts = (self._placed[0][1] if self._placed else time) + rank * self._clock.step
        self._dts = min(dts if self._dts is None else max(dts, self._dts + 1), latest)
        return self._dts
