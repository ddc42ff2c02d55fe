"""Presentation times against an independent model, which knows when each picture was shown, and the error of its stamp."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecflow.codec.clock import Rules
from codecflow.codec.pace import TOLERANCE_S
from codecflow.codec.presentation import MAX_DELAY, Timed, Timeline

UNIT = Fraction(1, 90_000)
SECOND = 90_000


@dataclass
class Shot:
    """The ground truth of a picture: when it was shown (`true`) and coded, and what the source says."""

    rank: int
    true: int
    coded: int
    stamp: int | None
    dts: int | None
    arrived_s: float = 0.0


@dataclass
class Film:
    """Pictures in decode order. `steps`: from each to the next, in presentation order; `minis`: pictures in each group of
    one P (decoded first) and the B-pictures before it."""

    steps: list[int]
    minis: list[int]
    shots: list[Shot] = field(default_factory=list)

    def __post_init__(self) -> None:
        true = [0]
        for step in self.steps:
            true.append(true[-1] + step)
        self.times = true
        order, at, minis = [0], 1, iter(self.minis * len(true))
        while at < len(true):
            size = min(next(minis), len(true) - at)
            order += [at + size - 1, *range(at, at + size - 1)]
            at += size
        self.depth = 1 if max(self.minis) > 1 else 0
        slots = [true[0] - self.depth * self.steps[0], *true] if self.depth else true
        self.shots = [Shot(rank, true[rank], true[index], true[rank], slots[index]) for index, rank in enumerate(order)]

    def by_rank(self) -> list[Shot]:
        return sorted(self.shots, key=lambda shot: shot.rank)


def play(film: Film, rules: Rules, depth: int | None = None) -> tuple[list[Timed[Shot]], Timeline[Shot]]:
    timeline: Timeline[Shot] = Timeline(rules, film.depth if depth is None else depth)
    timed = []
    for index, shot in enumerate(film.shots):
        timed += timeline.push(
            shot, (0, shot.rank), None, shot.stamp, shot.dts, arrived_s=shot.arrived_s, waited_s=shot.arrived_s
        )
        assert index + 1 - len(timed) <= MAX_DELAY, "never mute while pictures come"
    return timed + timeline.flush(), timeline


def check(film: Film, timed: list[Timed[Shot]]) -> list[int]:
    """Invariants for any input; times in presentation order."""
    assert [one.item.rank for one in timed] == [shot.rank for shot in film.shots], "decode order, each once"
    times = [one.pts for one in sorted(timed, key=lambda one: one.item.rank) if one.shown]
    assert all(before < after for before, after in pairwise(times)), "times increase in the order shown"
    decoding = [one.dts for one in timed if one.dts is not None]
    assert all(before <= after for before, after in pairwise(decoding)), "decoding times never go back"
    assert all(one.dts <= one.pts for one in timed if one.dts is not None)
    return times


def rules(**other: object) -> Rules:
    return Rules(UNIT, SECOND // 25, **other)  # type: ignore[arg-type]


rates = st.sampled_from(
    [Fraction(1, 5), Fraction(1), Fraction(5), Fraction(25), Fraction(30), Fraction(60), Fraction(120)]
)


@st.composite
def films(draw: st.DrawFn, longest: int = 120, slowest: Fraction = Fraction(1, 5)) -> Film:
    """Changing rates, steps with some jitter, lost pictures, with or without B-pictures."""
    steps: list[int] = []
    for rate, count in draw(
        st.lists(
            st.tuples(rates.filter(lambda rate: rate >= slowest), st.integers(10, longest)), min_size=1, max_size=3
        )
    ):
        jitter = draw(st.integers(0, int(SECOND / rate) // 5))
        noise = random.Random(draw(st.integers(0, 1 << 16)))
        steps += [int(SECOND / rate) + noise.randint(-jitter, jitter) for _ in range(count)]
    film = Film(steps, draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    lost = draw(st.sets(st.integers(1, len(film.shots) - 1), max_size=4))
    film.shots = [shot for index, shot in enumerate(film.shots) if index not in lost]
    return film


@settings(deadline=None, max_examples=40)
@given(films(), st.booleans(), st.booleans())
def test_sound_times_of_a_file_stay_as_they_are(film: Film, one_timeline: bool, stated: bool) -> None:
    timed, timeline = play(film, rules(one_timeline=one_timeline), film.depth if stated else 0)
    check(film, timed)
    assert [one.pts for one in timed] == [shot.stamp for shot in film.shots]
    if stated:
        assert [one.dts for one in timed] == [shot.dts for shot in film.shots]
    assert not timeline.corrected
    assert not timeline.take_notices()


def arrive(film: Film, seed: int, late_s: float) -> None:
    """Each picture arrives some time after its capture, in decode order. Cameras send no decoding times."""
    noise, newest = random.Random(seed), 0.0
    for shot in film.shots:
        newest = max(newest, shot.coded / SECOND + noise.random() * late_s)
        shot.arrived_s, shot.dts = newest, None


@settings(deadline=None, max_examples=40)
@given(
    st.one_of(films(slowest=Fraction(1)), films().filter(lambda film: not film.depth)),
    st.integers(0, 99),
    st.sampled_from([0.01, 0.3, 0.9]),
)
def test_sound_times_of_a_camera_stay_as_they_are(film: Film, seed: int, late_s: float) -> None:
    arrive(film, seed, late_s)
    timed, timeline = play(film, rules(live=True, paced=True))
    times = check(film, timed)
    assert not timeline.corrected
    # A connection that became slower looks like a slow clock: followed, and corrected by half a per cent.
    for shot, time in zip(film.by_rank(), times, strict=True):
        assert abs(time - shot.true) <= 0.005 * shot.true + 2


def at_rate(rate: int, pictures: int, minis: list[int]) -> Film:
    return Film([SECOND // rate] * (pictures - 1), minis)


@dataclass
class Fault:
    """`kind`: jump (of the clock, from a picture on in presentation order), cut (the same in decode order), rogue."""

    kind: str
    at: int
    seconds: float

    def strike(self, film: Film) -> None:
        for index, shot in enumerate(film.shots):
            place = index if self.kind == "cut" else shot.rank
            if shot.stamp is not None and (place == self.at if self.kind == "rogue" else place >= self.at):
                shot.stamp += int(self.seconds * SECOND)
                if shot.dts is not None and self.kind != "rogue":
                    shot.dts += int(self.seconds * SECOND)


@st.composite
def faulty(draw: st.DrawFn, sizes: list[float], kinds: list[str]) -> tuple[Film, list[Fault]]:
    rate = draw(st.sampled_from([1, 5, 25, 60]))
    film = at_rate(rate, draw(st.integers(60, 150)), draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    places = draw(st.lists(st.integers(1, len(film.shots) // 20 - 1), unique=True, max_size=3))
    faults = [
        Fault(draw(st.sampled_from(kinds)), 20 * place + draw(st.integers(0, 9)), draw(st.sampled_from(sizes)))
        for place in places
    ]
    for fault in faults:
        fault.strike(film)
    return film, faults


def off_by(film: Film, times: list[int]) -> float:
    """The largest difference from the true times, in seconds."""
    first = film.by_rank()[0]
    pairs = zip(film.by_rank(), times, strict=True)
    return max(abs((time - times[0]) - (shot.true - first.true)) for shot, time in pairs) / SECOND


BACK = [-5.0, -100.0, -7200.0, -37_600.0]
AHEAD = [100.0, 7200.0, 37_600.0, 86_400.0]


@settings(deadline=None, max_examples=40)
@given(faulty(BACK + AHEAD, ["jump", "cut", "rogue"]))
def test_a_transmission_in_a_file_goes_on_where_its_clock_was_set(case: tuple[Film, list[Fault]]) -> None:
    film, faults = case
    timed, timeline = play(film, rules(one_timeline=False))
    times = check(film, timed)
    step_s = film.steps[0] / SECOND
    assert off_by(film, times) <= len(faults) * 4 * step_s
    assert bool(timeline.corrected) == bool(faults)
    assert len(timeline.take_notices()) == len(+timeline.corrected)


@settings(deadline=None, max_examples=40)
@given(faulty(BACK, ["jump", "cut", "rogue"]))
def test_one_timeline_that_goes_back(case: tuple[Film, list[Fault]]) -> None:
    film, faults = case
    times = check(film, play(film, rules())[0])
    assert off_by(film, times) <= len(faults) * 4 * film.steps[0] / SECOND


@settings(deadline=None, max_examples=40)
@given(faulty(AHEAD, ["jump"]))
def test_one_timeline_may_have_gaps_of_any_length(case: tuple[Film, list[Fault]]) -> None:
    film, _ = case
    timed, timeline = play(film, rules())
    assert [one.pts for one in timed] == [shot.stamp for shot in film.shots]
    assert not timeline.corrected


@settings(deadline=None, max_examples=40)
@given(faulty(AHEAD, ["rogue"]))
def test_one_timeline_with_single_wrong_stamps(case: tuple[Film, list[Fault]]) -> None:
    film, faults = case
    timed, timeline = play(film, rules())
    times = check(film, timed)
    assert off_by(film, times) <= film.steps[0] / SECOND
    assert timeline.corrected["wrong times"] == len(faults)


@settings(deadline=None, max_examples=40)
@given(
    faulty([*BACK[1:], *AHEAD, 2e6, -2e6], ["jump", "cut", "rogue"]), st.integers(0, 99), st.sampled_from([0.01, 0.3])
)
def test_a_camera_goes_on_with_the_wall_clock(case: tuple[Film, list[Fault]], seed: int, late_s: float) -> None:
    film, faults = case
    arrive(film, seed, late_s)
    timed, timeline = play(film, rules(live=True, paced=True))
    times = check(film, timed)
    step_s = film.steps[0] / SECOND
    assert off_by(film, times) <= 0.1 + len(faults) * (4 * step_s + 2 * late_s)
    assert bool(+timeline.corrected) == bool(faults)


@pytest.mark.parametrize("jump_s", [0, 5000, -3000])
@pytest.mark.parametrize("mini", [1, 3])
def test_the_picture_before_a_pause_is_complete_after_it(mini: int, jump_s: int) -> None:
    """Over RTSP a picture ends where the next one begins; the clock may be set meanwhile."""
    film = at_rate(10, 60, [mini])
    for shot in film.shots:
        shot.true, shot.coded = (at + 6 * SECOND * (at > 3 * SECOND) for at in (shot.true, shot.coded))
    arrive(film, 0, 0.02)
    for shot, following in pairwise(film.shots):
        shot.arrived_s = following.arrived_s
    for shot in film.shots:
        shot.stamp = shot.true + jump_s * SECOND * (shot.true > 3 * SECOND)
    times = check(film, play(film, rules(live=True, paced=True))[0])
    assert off_by(film, times) < 0.5


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 30), st.sampled_from([1, 2, 4, 16]), st.booleans(), st.booleans())
def test_time_advances_whatever_the_stamps_are(seed: int, mini: int, live: bool, stated: bool) -> None:
    """Also if a track does not state its reordering."""
    noise = random.Random(seed)
    kinds = noise.choices(["none", "wild", "near"], [noise.random(), noise.random(), noise.random()], k=600)
    sizes = {"near": noise.choice([3, 20, 400]) * 3600, "wild": 1 << 62}
    stamps = [None if kind == "none" else noise.randint(-sizes[kind], sizes[kind]) // 3600 * 3600 for kind in kinds]
    film = at_rate(25, len(stamps), [mini])
    for shot, stamp in zip(film.shots, stamps, strict=True):
        shot.stamp, shot.dts = stamp, None
    arrive(film, 0, 0.0)
    timed, _ = play(film, rules(live=live, paced=live), film.depth if stated else 0)
    times = check(film, timed)
    assert stated <= all(one.shown for one in timed), "late pictures alone may find no room"
    assert len(times) >= 600 - 2 * mini
    if live:
        shown = {one.item.rank: one.pts for one in timed if one.shown and one.item.rank >= 150}
        later = [time - film.times[rank] for rank, time in shown.items()]
        assert max(later) - min(later) <= 2 * TOLERANCE_S * SECOND, "a step is whatever the stamps make it"
    # Ten seconds of pictures: with meaningless stamps a file's time may advance slowly for a while, but it does not stop.
    for begin in range(0, len(times) - 250, 250):
        assert times[begin + 250] - times[begin] >= SECOND // 4


@pytest.mark.parametrize("factor", [0.0, 0.04, 0.2, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("mini", [1, 3])
def test_a_camera_whose_stamps_have_another_pace(factor: float, mini: int) -> None:
    film = at_rate(25, 2000, [mini])
    for shot in film.shots:
        shot.stamp, shot.dts = int(shot.true * factor), None
    arrive(film, 0, 0.05)
    timed, timeline = play(film, rules(live=True, paced=True))
    times = check(film, timed)
    assert timeline.corrected["other pace"] == 1
    assert off_by(film, times) < (6 if factor < 1 else 9), "noticed within the first seconds"
    ends = [times[-1] - times[-501], film.times[-1] - film.times[-501]]
    assert ends[0] == pytest.approx(ends[1], abs=SECOND // 5)
    if factor < 1:
        assert times[-1] / SECOND == pytest.approx(film.times[-1] / SECOND, abs=0.5)


SENSELESS: dict[str, Callable[[Shot], int]] = {
    "all alike": lambda shot: 0,
    "only how far pictures are reordered": lambda shot: (shot.true - shot.coded) // 3600 * 3600,
    "decreasing": lambda shot: 1000 * SECOND - shot.true,
    "at random": lambda shot: random.Random(shot.rank).randrange(40_000) * SECOND,
}


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("mini", [1, 3])
@pytest.mark.parametrize("kind", SENSELESS)
def test_stamps_without_sense_are_given_up(kind: str, mini: int, live: bool) -> None:
    film = at_rate(10, 400, [mini])
    for shot in film.shots:
        shot.stamp, shot.dts = SENSELESS[kind](shot), None
    arrive(film, 0, 0.05)
    timed, timeline = play(film, Rules(UNIT, SECOND // 10, live=live, paced=live))
    times = check(film, timed)
    assert timeline.corrected.total() > 100 or timeline.corrected["other pace"] == 1
    ends = [times[-1] - times[-301], film.times[-1] - film.times[-301]]
    assert ends[0] == pytest.approx(ends[1], abs=SECOND // 5), "constant steps, or the time of arrival"


@pytest.mark.parametrize("mini", [1, 4])
@pytest.mark.parametrize("every", [2, 3, 5])
def test_some_stamps_alone_show_the_rate(every: int, mini: int) -> None:
    """Their distance, although the source states another rate."""
    film = at_rate(10, 200, [mini])
    for index, shot in enumerate(film.shots):
        shot.dts = None
        if index % every:
            shot.stamp = None
    for frame in (SECOND // 25, SECOND // 5):
        times = check(film, play(film, Rules(UNIT, frame))[0])
        assert off_by(film, times) < 1


@pytest.mark.parametrize("mini", [1, 3])
def test_the_last_picture_of_a_camera_that_fell_silent_comes_late(mini: int) -> None:
    """Transport streams end a picture where the next one begins, so the last one waits for the time-out."""
    film = at_rate(25, 500, [mini])
    arrive(film, 0, 0.05)
    film.shots[-1].arrived_s += TOLERANCE_S + 2
    timed, timeline = play(film, rules(live=True, paced=True))
    check(film, timed)
    assert not timeline.corrected


@pytest.mark.parametrize("drift", [0.999, 1.001])
def test_a_camera_whose_clock_drifts_stays_with_the_wall_clock(drift: float) -> None:
    film = at_rate(1, 10_000, [1])
    for shot in film.shots:
        shot.stamp, shot.dts = int(shot.true * drift), None
    arrive(film, 0, 0.05)
    timed, timeline = play(film, rules(live=True, paced=True))
    assert off_by(film, check(film, timed)) < 6, "a second and four pictures"
    assert not timeline.corrected


@pytest.mark.parametrize("wrap", [32, 33])
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("mini", [1, 4])
def test_counters_that_wrap(wrap: int, live: bool, mini: int) -> None:
    film = at_rate(25, 300, [mini])
    start = (1 << wrap) - 100 * 3600 - 5
    for shot in film.shots:
        shot.stamp = (shot.true + start) % (1 << wrap)
        shot.dts = ((shot.dts or 0) + start) % (1 << wrap)
        shot.arrived_s = max(0, shot.true - SECOND) / SECOND
    timed, timeline = play(film, rules(live=live, one_timeline=False))
    assert [one.pts for one in timed] == [shot.true + start for shot in film.shots]
    assert [one.dts for one in timed][10:] == [
        shot.dts + (1 << wrap if shot.dts < start else 0) for shot in film.shots
    ][10:]
    assert not timeline.corrected


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(1, 4), st.booleans())
def test_missing_stamps(data: st.DataObject, mini: int, live: bool) -> None:
    film = at_rate(25, 200, [mini])
    kept = data.draw(st.sets(st.integers(0, 199), min_size=8))
    kept = {*kept, 9}  # one of the first pictures has a time
    for index, shot in enumerate(film.shots):
        shot.dts = None
        if index not in kept:
            shot.stamp = None
    arrive(film, 0, 0.0)
    timed, _ = play(film, rules(live=live, paced=live))
    assert off_by(film, check(film, timed)) == 0


@pytest.mark.parametrize("mini", [1, 4])
def test_pictures_without_any_time_of_a_file_are_a_frame_apart(mini: int) -> None:
    film = at_rate(25, 100, [mini])
    for shot in film.shots:
        shot.stamp = shot.dts = None
    timed, timeline = play(film, rules(stamped=False, rate_stated=False))
    assert check(film, timed) == film.times
    assert timeline.take_notices() == [
        "neither its pictures nor its stream say when pictures are shown; 25 pictures/s are assumed"
    ]
    assert not timeline.corrected


@settings(deadline=None, max_examples=40)
@given(films(), st.integers(0, 99))
def test_pictures_without_any_time_of_a_camera_have_the_time_at_which_they_arrive(film: Film, seed: int) -> None:
    arrive(film, seed, 0.05)
    for shot in film.shots:
        shot.stamp = shot.dts = None
    timed, timeline = play(film, rules(stamped=False, live=True))
    times = check(film, timed)
    arrived = sorted(shot.arrived_s for shot in film.shots)
    seconds_of = [(time - times[0]) / SECOND for time in times]
    for at, time in zip(arrived, seconds_of, strict=True):
        assert time == pytest.approx(at - arrived[0], abs=0.001)
    assert len(timeline.take_notices()) == 1


@settings(deadline=None, max_examples=30)
@given(faulty([*BACK, *AHEAD], ["jump", "rogue"]), st.integers(0, 99))
def test_what_is_decided_never_depends_on_what_comes_later(case: tuple[Film, list[Fault]], cut: int) -> None:
    """Live: no lookahead beyond the pictures shown earlier."""
    film, _ = case
    arrive(film, 0, 0.0)
    whole, _ = play(film, rules(live=True))
    timeline: Timeline[Shot] = Timeline(rules(live=True), film.depth)
    seen: list[Timed[Shot]] = []
    for index, shot in enumerate(film.shots):
        seen += timeline.push(
            shot, (0, shot.rank), None, shot.stamp, shot.dts, arrived_s=shot.arrived_s, waited_s=shot.arrived_s
        )
        if film.depth == 0 or max(film.minis) == 1:
            assert len(seen) == index + 1
    assert seen == whole[: len(seen)]
