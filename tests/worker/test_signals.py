"""The signal between two sampled frames: whole, or not at all."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from codecflow.messages import Signal
from codecflow.worker.sampler import SignalTrack


def signal(tick: int, since: int | None, change: int = 3, columns: int = 4) -> Signal:
    return Signal(tick, Fraction(1, 2), np.full((3, columns), change, np.uint8), None, None, since)


def taken(*signals: Signal, at: tuple[int, int]) -> Signal | None:
    """What lies between the frames at two ticks."""
    track = SignalTrack()
    for one in signals:
        track.add(one)
    track.take(at[0], lambda signal: True)
    return track.take(at[1], lambda signal: True)


def test_changes_add_up() -> None:
    found = taken(signal(0, None), signal(1, 0), signal(2, 1, 5), at=(0, 2))
    assert found is not None
    assert (found.tick, found.since) == (2, 0)
    assert (found.change == 8).all()


def test_a_slow_camera_keeps_the_chain() -> None:
    """No picture was shown in ticks 1, 2 and 4: the signals say what they are measured against."""
    found = taken(signal(0, None), signal(3, 0), signal(5, 3), at=(0, 5))
    assert found is not None
    assert (found.change == 6).all()


@pytest.mark.parametrize(
    "signals",
    [
        (signal(0, None), signal(2, 1)),  # that of tick 1 was lost
        (signal(0, None), signal(1, 0)),  # that of the frame itself was
        (signal(0, None), signal(1, None), signal(2, 1)),
        (signal(0, None), signal(1, 0, columns=5), signal(2, 1)),
        (signal(0, None),),
        (signal(2, 1),),
        (),
    ],
)
def test_nothing_is_known_where_any_may_be_missing(signals: tuple[Signal, ...]) -> None:
    assert taken(*signals, at=(0, 2)) is None


def test_a_tick_of_the_far_future_costs_nothing() -> None:
    assert taken(signal(0, None), signal(10**12, 10**11), at=(0, 10**12)) is None
