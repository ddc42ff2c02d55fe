"""A worker with other windows, strides or rates continues where the previous one stopped: no gaps, no duplicates."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from codecflow.keep.config import KeepConfig
from codecflow.worker.window_plan import WindowPlan
from codecflow.worker.windows import Window

from .memory import Committed, Topics, Worker, encode_clip, publish

KEEP = KeepConfig("replenish", period_s=Fraction(2))


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Topics:
    """40 s of one stream."""
    return Topics().add(*publish(encode_clip(tmp_path_factory.mktemp("clip") / "long.mp4", 40, fps=8), "a"))


def span(window: Window, plan: WindowPlan) -> tuple[Fraction, Fraction]:
    """The presentation time that the window's newest stride covers."""
    return plan.time(plan.newest(window.index)), plan.time(plan.end(window.index))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("4", "2", "2"), ("16", "8", "2")),
        (("16", "8", "2"), ("4", "2", "2")),
        (("4", "2", "2"), ("8", "3", "2")),
        (("4", "2", "2"), ("4", "2", "1")),
        (("4", "2", "1"), ("4", "2", "2")),
        (("4", "2", "2"), ("12", "2", "2")),
        (("1", "4", "2"), ("4", "2", "2")),
    ],
    ids="-".join,
)
@pytest.mark.parametrize("reads", [100, 180, 250])
def test_another_plan_goes_on_at_its_next_boundary(
    topics: Topics, before: tuple[str, str, str], after: tuple[str, str, str], reads: int
) -> None:
    old, new = WindowPlan.of(*before), WindowPlan.of(*after)
    committed = Committed()
    first = Worker(topics, committed, old, KeepConfig("replenish", old.fps, period_s=Fraction(2)))
    first.read_packets(reads)
    first.read_metadata(reads)
    while first.ready:
        first.transaction()
    until = committed.states["a"].answered_until
    assert until == old.time(old.end(first.windows[-1].index)) if first.windows else 0
    second = Worker(topics, committed, new, KeepConfig("replenish", new.fps, period_s=Fraction(2))).run()
    spans = [span(window, new) for window in second.windows]
    # The first window ends after what was answered, and its stride starts no later: no gap.
    assert spans[0][1] > until >= spans[0][1] - new.stride_slots / new.fps
    assert [window.index for window in second.windows] == list(
        range(second.windows[0].index, int(40 * new.fps) // new.stride_slots)
    )
    assert second.windows[0].restarted == (new.first(second.windows[0].index) > 0)
    assert committed.states["a"].ended
    assert committed.states["a"].plan == new.grid


def test_a_plan_that_changes_to_and_fro_emits_no_time_twice(topics: Topics) -> None:
    plans = [WindowPlan.of(4, 2, 2), WindowPlan.of(16, 8, 2)]
    committed, ends = Committed(), []
    for life in range(12):
        plan = plans[life % 2]
        worker = Worker(topics, committed, plan, KEEP)
        while not worker.windows and not worker.at_end:
            worker.read_packets(5)
            worker.read_metadata(5)
            worker.transaction()
        ends += [plan.time(plan.end(window.index)) for window in worker.windows]
    assert ends == sorted(set(ends))
    assert len(ends) >= 8


def test_the_state_of_the_wire_says_the_time(topics: Topics, tmp_path: Path) -> None:
    committed = Committed()
    plan = WindowPlan.of(4, 2, 2)
    worker = Worker(topics, committed, plan, KEEP)
    worker.read_packets(200)
    worker.read_metadata(200)
    while worker.ready:
        worker.transaction()
    state = committed.states["a"]
    assert (state.answered_until, state.plan, state.ended) == (24, plan.grid, False)
