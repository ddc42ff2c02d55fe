"""Which policies and baselines are compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecflow.errors import ConfigError
from codecflow.tools.evaluate.contender_names import family_of
from codecflow.tools.evaluate.contenders import DEFAULT, at_random, contenders, every
from codecflow.tools.evaluate.curves import colour
from codecflow.vlm.inputs import FixedInput
from codecflow.vlm.preprocessing import Preprocessing
from codecflow.vlm.work import Frame
from codecflow.worker.window_plan import WindowPlan

PLAN = WindowPlan.of(40, 8, 2)


MODEL = FixedInput(Preprocessing((0, 0, 0), (1, 1, 1)), patch=1, width=16, height=16, merge=2)
"""64 tokens of four patches."""

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def frame(index: int, keep: np.ndarray) -> Frame:
    patches = MODEL.patches(PICTURE, np.ones(64, bool)) if keep.any() else None
    return Frame(index, index / 2, keep, patches, (16, 16), bool(keep.all()))


def test_all_all_is_there_first_and_once() -> None:
    assert [one.name for one in contenders("replenish/none, motion/anchors", PLAN, None)] == [
        "all/all",
        "replenish/none",
        "motion/anchors",
    ]
    names = [one.name for one in contenders(DEFAULT, PLAN, None)]
    assert len(names) == len(set(names)) == 18
    assert names[0] == "all/all"


def test_another_reference_takes_the_place_of_all_all() -> None:
    found = contenders("replenish@background/none,replenish/none", PLAN, None, reference="replenish/none")
    assert [one.name for one in found] == ["replenish/none", "replenish@background/none"]


def test_budgets_of_the_controls_are_the_anchors() -> None:
    for one in contenders("all/shifted,all/random,all/contiguous,all/deviation", PLAN, None)[1:]:
        assert one.refresh.name == "budget"
        assert one.refresh.matched
    (_, share) = contenders("all/budget=0.3", PLAN, None)
    assert (share.refresh.share, share.refresh.matched) == (0.3, False)


def test_the_papers_threshold_can_be_set() -> None:
    _, default, coarse = contenders("motion/none,motion-2.5/none", PLAN, None)
    assert (default.keep.tau_px, coarse.keep.tau_px) == (0.5, 2.5)
    assert replace(coarse.keep, tau_px=0.5) == default.keep


def test_families_differ_in_a_number_alone() -> None:
    names = [
        "last-4/all",
        "last-16/all",
        "motion/none",
        "motion-2/none",
        "all/budget=0.2",
        "random/none",
        "every-4/none",
    ]
    assert [family_of(name) for name in names] == [
        "last/all", "last/all", "motion/none", "motion/none", "all/budget", "random/none", "every/none",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        (
            "some/none",
            "KEEP one of all, motion, replenish, motion-PX, random, last-N, every-N, REFRESH one of none, anch",
        ),
        ("replenish", "give KEEP\\[@COVERAGE\\]/REFRESH, KEEP one of"),
        ("last-0/all", "KEEP one of"),
        ("every-x/none", "KEEP one of"),
        ("last-²/all", "KEEP one of"),
        ("motion-/none", "KEEP one of"),
        ("motion-fast/none", "KEEP one of"),
        ("motion-100/none", "tau 100.0 px: use 0.25 to 63.75"),
        ("all/some", "REFRESH one of none, anchors, shifted"),
        ("all/budget=x", "a number from 0 to 1"),
        ("all/budget=2", "a number from 0 to 1"),
    ],
)
def test_unknown_names_are_reported_with_the_option_that_gave_them(name: str, printed: str) -> None:
    with pytest.raises(ConfigError, match=f"^--policies {name!r}: .*{printed}"):
        contenders(f"replenish/none,{name}", PLAN, None)
    with pytest.raises(ConfigError, match=f"^--match {name!r}: .*{printed}"):
        contenders("replenish/none", PLAN, None, name)
    with pytest.raises(ConfigError, match=f"^--policies {name!r}: "):
        contenders(name, PLAN, None, name)


def test_what_is_matched_runs_too_and_once() -> None:
    for names in ("replenish/none", "replenish/none,motion-2/none"):
        ran = [one.name for one in contenders(names, PLAN, None, "motion-2/none")]
        assert ran == ["all/all", "replenish/none", "motion-2/none"]
    assert [one.name for one in contenders("replenish/none", PLAN, None, "all/all")] == ["all/all", "replenish/none"]


def test_a_coverage_that_cannot_be_is_no_contenders_fault() -> None:
    for coverage in ("100", "0.3"):
        with pytest.raises(ConfigError, match=r"^coverage"):
            contenders("replenish/none", PLAN, coverage, "motion/none")


@given(index=st.integers(0, 500), kept=st.integers(0, 64))
def test_random_tokens_are_as_many_and_the_same_in_every_run(index: int, kept: int) -> None:
    given_ = frame(index, np.arange(64) < kept)
    thinned = at_random(given_, MODEL)
    assert thinned.keep.sum() == kept
    assert (thinned.keep == at_random(given_, MODEL).keep).all()
    if thinned.patches is None:
        assert not kept
    else:
        assert (thinned.patches == MODEL.patches(PICTURE, thinned.keep)).all()


def test_random_tokens_differ_from_frame_to_frame() -> None:
    masks = {at_random(frame(index, np.arange(64) < 20), MODEL).keep.tobytes() for index in range(20)}
    assert len(masks) == 20


def test_every_fourth_frame_whole_and_nothing_of_the_others() -> None:
    whole = np.ones(64, bool)
    kept = [every(4)(frame(index, whole), MODEL).keep.sum() for index in range(9)]
    assert kept == [64, 0, 0, 0, 64, 0, 0, 0, 64]
    assert every(4)(frame(1, whole), MODEL).patches is None


def test_a_contender_may_have_a_coverage_of_its_own() -> None:
    plan = WindowPlan.of(8, 2, 2)
    plain, covered, rolling = contenders("replenish/none,replenish@background/none,motion@rolling=4/none", plan, "4")[
        1:
    ]
    assert (plain.keep.coverage, covered.keep.coverage, rolling.keep.coverage) == ("anchor", "background", "rolling")
    assert (covered.keep.policy, covered.keep.background, rolling.keep.period_s) == ("replenish", True, 4)
    assert family_of(covered.name) == "replenish@background/none"
    assert colour(covered.name) == colour(plain.name)
    with pytest.raises(ConfigError, match=r"^--policies 'all@never/none': coverage 'never'"):
        contenders("all@never/none", plan, None)
