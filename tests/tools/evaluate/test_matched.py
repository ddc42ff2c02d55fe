"""Scores of other contenders at one contender's FLOPs, and the uncertainty of a difference of mean F1."""

from __future__ import annotations

import numpy as np
import pytest

from codecflow.messages import Flops, Frames, Question, Result, Tokens
from codecflow.tools.evaluate.scoring import Key, Standing, matched, score

PERSON, CAR = Question("q1", "person?", "yes-no"), Question("q2", "car?", "yes-no")
WINDOWS = 200


def answered(right: dict[str, float], flops: int) -> dict[Key, Result]:
    """Results whose answers to a question are right on that share of windows (the first ones), at `flops` per answer."""
    return {
        (0, w, prompt): Result(
            "s", 1, w, 0, 1, 0, 0, "q", prompt, "yes-no", "yes" if w < share * WINDOWS else "no", 0.5, None, Frames(1, 1),
            Tokens(1, 1, 1, 0), Flops(flops, 0, 2 * flops), {}, "", "", "m", True,
        )
        for prompt, share in right.items() for w in range(WINDOWS)
    }  # fmt: skip


def standings(**figures: tuple[dict[str, float], int]) -> dict[str, Standing]:
    by_contender = {name: answered(*of) for name, of in figures.items()}
    labels = {key: "yes" for results in by_contender.values() for key in results}
    return {one.name: one for one in score([PERSON, CAR], by_contender, labels, resamples=300)}


def f1(share: float) -> float:
    """F1 if the right answer is always yes."""
    return 2 * share / (1 + share)


def both(share: float) -> dict[str, float]:
    return {PERSON.prompt: share, CAR.prompt: share}


def test_change_of_mean_f1_is_drawn_in_pairs_over_all_questions() -> None:
    ran = standings(
        **{"all/all": (both(0.8), 100), "replenish/none": ({PERSON.prompt: 0.75, CAR.prompt: 0.8}, 10)},
    )
    change = ran["replenish/none"].f1_change
    assert change.value == pytest.approx((f1(0.75) - f1(0.8)) / 2)
    assert change.low < change.value < change.high < 0  # ten answers worse, none better: every sample agrees
    assert change.high - change.low < 0.03  # F1 itself is much less certain
    own = ran["replenish/none"].questions[PERSON.prompt].f1
    assert own.high - own.low > 0.05
    assert ran["all/all"].f1_change.value == ran["all/all"].f1_change.low == ran["all/all"].f1_change.high == 0


def test_differences_are_to_the_first_contender() -> None:
    ran = standings(
        **{
            "replenish/none": (both(0.8), 100),
            "replenish@background/none": (both(0.75), 80),
            "all/all": (both(0.9), 1000),
        }
    )
    assert ran["replenish@background/none"].f1_change.value == pytest.approx(f1(0.75) - f1(0.8))
    assert [ran[name].flops_share for name in ran] == [1, 0.8, 10]
    assert not matched(list(ran.values()), ran["replenish/none"]), "another coverage is no other keep policy"


def test_a_family_is_read_off_between_its_settings() -> None:
    ran = standings(
        **{
            "all/all": (both(0.9), 1000),
            "replenish/none": (both(0.9), 100),
            "last-4/all": (both(0.5), 150),
            "last-1/all": (both(0.2), 50),
            "last-8/all": (both(0.9), 400),
            "random/none": (both(0.6), 100),
            "motion/none": (both(0.8), 500),
            "motion-8/none": (both(0.7), 120),
            "every-16/none": (both(0.4), 20),
            "replenish/anchors": (both(0.9), 120),
        }
    )
    found = {one.family: one for one in matched(list(ran.values()), ran["replenish/none"])}
    assert list(found) == ["last/all", "random/none", "motion/none", "every/none"]
    last = found["last/all"]
    assert (last.settings, last.flops_share, last.outside) == (("last-1/all", "last-4/all"), pytest.approx(0.1), 0)
    assert last.f1 == pytest.approx((f1(0.2) + f1(0.5)) / 2)
    assert last.change.value == pytest.approx(last.f1 - f1(0.9))
    assert last.change.low < last.change.value < last.change.high < 0
    assert (found["random/none"].settings, found["random/none"].outside) == (("random/none",), 0)
    assert found["random/none"].f1 == pytest.approx(f1(0.6))
    # No setting is as cheap, or as expensive: the nearest one, with its own FLOPs.
    motion, every = found["motion/none"], found["every/none"]
    assert (motion.settings, motion.flops_share, motion.outside) == (("motion-8/none",), pytest.approx(0.12), 1)
    assert (every.settings, every.flops_share, every.outside) == (("every-16/none",), pytest.approx(0.02), -1)
    assert np.isfinite(every.change.low)
