"""The arithmetic of windows, for any stride, window and rate."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecflow.errors import ConfigError
from codecflow.worker.window_plan import WindowPlan

plans = st.builds(
    WindowPlan, st.integers(1, 60), st.integers(1, 60), st.sampled_from([Fraction(2), Fraction(1), Fraction(1, 3)])
)


def test_the_default_plan_in_seconds() -> None:
    plan = WindowPlan.of("40", 8, 2.0)
    windows = [(plan.time(plan.first(k)), plan.time(plan.end(k))) for k in range(7)]
    assert windows == [(0, 8), (0, 16), (0, 24), (0, 32), (0, 40), (8, 48), (16, 56)]


@given(plans, st.integers(0, 500))
def test_a_window_ends_with_its_stride_and_holds_at_most_its_length(plan: WindowPlan, window: int) -> None:
    assert plan.end(window) == (window + 1) * plan.stride_slots
    assert 1 <= plan.expected(window) <= plan.window_slots
    assert plan.expected(window) == plan.window_slots or plan.first(window) == 0


@given(plans, st.integers(0, 2_000))
def test_each_slot_is_newest_in_exactly_one_window_unless_windows_leave_gaps(plan: WindowPlan, slot: int) -> None:
    newest_in = [k for k in range(slot // plan.stride_slots + 3) if plan.newest(k) <= slot < plan.end(k)]
    assert newest_in == ([plan.window_of(slot)] if plan.used(slot) else [])
    assert plan.used(slot) or plan.window_slots < plan.stride_slots


@given(plans, st.integers(0, 2_000))
def test_a_slot_begins_at_its_own_time(plan: WindowPlan, slot: int) -> None:
    assert plan.slot_at(plan.time(slot)) == slot
    assert plan.slot_at(plan.time(slot + 1) - Fraction(1, 1_000_000)) == slot


@pytest.mark.parametrize(
    ("window", "stride", "fps", "says"),
    [
        ("40", "8.3", "2", "--stride 8.3 s is not a whole number of frames at 2 frames/s"),
        ("1/3", "8", "2", "--window 1/3 s"),
        ("0", "8", "2", "--window '0': use a positive number"),
        ("40", "-8", "2", "--stride '-8': use a positive number"),
        ("40", "8", "often", "--fps 'often': use a positive number"),
        ("40", "8", "1/0", "--fps '1/0'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(window: str, stride: str, fps: str, says: str) -> None:
    with pytest.raises(ConfigError, match="^" + says) as refusal:
        WindowPlan.of(window, stride, fps)
    assert "\n" not in str(refusal.value)
