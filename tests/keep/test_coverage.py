"""Every grid cell has a kept token in every window, whatever the policy drops, and a replay takes the same masks."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecflow.errors import ConfigError
from codecflow.grid import TokenGrid
from codecflow.keep import COVERAGE_KINDS, POLICY_NAMES, KeepConfig, KeepState, parse_coverage
from codecflow.messages import Signal
from tests.keep.random_pictures import Picture, Producer, step

Frame = tuple[int, Signal | None, Picture, bool]
"""Slot, signal, picture, and whether it is a keyframe."""


def frames_of(
    rng: np.random.Generator, width: int, height: int, slots: list[int], keyframes: float = 0.2
) -> list[Frame]:
    """Sampled frames of a scene with some moving objects, with correct signals and vectors."""
    rows, columns = -(-height // 16), -(-width // 16)
    picture = rng.integers(0, 256, (height, width)).astype(np.uint8)
    producer = Producer()
    frames: list[Frame] = []
    for slot in slots:
        picture = picture.copy()
        if rng.random() < 0.7:
            y, x = rng.integers(0, height), rng.integers(0, width)
            picture[y : y + 12, x : x + 12] ^= np.uint8(rng.integers(1, 64))
        keyframe = bool(rng.random() < keyframes)
        signal = producer.show(picture, reference=keyframe and rng.random() < 0.5)
        motion = (rng.random((rows, columns)) < 0.05).astype(np.uint8) * np.uint8(rng.integers(1, 40))
        intra = (rng.random((rows, columns)) < 0.02).astype(np.uint8)
        frames.append((slot, replace(signal, motion=motion, intra=intra), picture, keyframe))
    return frames


def masks(grid: TokenGrid, config: KeepConfig, frames: list[Frame]) -> dict[int, np.ndarray]:
    state = KeepState(grid, config)
    return {
        slot: step(state, slot, signal, lambda p=picture: p, keyframe=keyframe).keep
        for slot, signal, picture, keyframe in frames
    }


configs = st.builds(
    lambda policy, fps, coverage, period_s, slack: KeepConfig(policy, fps, coverage, period_s, slack * period_s),
    policy=st.sampled_from(POLICY_NAMES),
    fps=st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 2)]),
    coverage=st.sampled_from(COVERAGE_KINDS),
    period_s=st.sampled_from([Fraction(2), Fraction(4), Fraction(10)]),
    slack=st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(1)]),
)


@settings(max_examples=60, deadline=None)
@given(
    configs,
    st.tuples(st.integers(1, 70), st.integers(1, 50)),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
def test_every_cell_is_kept_in_every_period(
    config: KeepConfig, size: tuple[int, int], rows: int, columns: int, seed: int
) -> None:
    width, height = size
    grid = TokenGrid.regular(min(rows, height), min(columns, width), width, height)
    first = seed % 50
    within = config.period_slots + config.slack_slots
    slots = list(range(first, first + 3 * within + 5))
    kept = masks(grid, config, frames_of(np.random.default_rng(seed), width, height, slots))
    for start in range(first, slots[-1] - within + 2):
        union = np.logical_or.reduce([kept[slot] for slot in range(start, start + within)])
        assert union.all(), f"cells {np.flatnonzero(~union)} lack a kept token from slot {start} on"


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(0, 2**32), st.floats(0, 0.4), st.sampled_from([0.0, 0.1, 0.5]))
def test_a_replay_that_begins_a_memory_earlier_takes_the_same_masks(
    config: KeepConfig, seed: int, missing: float, keyframes: float
) -> None:
    """Frames may be missing; the replay sees the same ones from its start on."""
    rng = np.random.default_rng(seed)
    grid = TokenGrid.regular(3, 5, 70, 50)
    memory = int(config.memory_s * config.fps)
    slots = [slot for slot in range(5 * config.period_slots + 6) if rng.random() >= missing]
    frames = frames_of(rng, grid.width, grid.height, slots, keyframes)
    undisturbed = masks(grid, config, frames)
    for begin in range(1, len(frames), 4):
        slot = frames[begin][0]
        replayed = masks(grid, config, frames[begin:])
        for later, keep in replayed.items():
            if later >= slot + memory:
                assert (keep == undisturbed[later]).all(), f"replay from {slot} differs at {later}"


@pytest.mark.parametrize("period_s", [Fraction(8), Fraction(40)])
def test_rolling_spreads_what_anchors_send_at_once(period_s: Fraction) -> None:
    grid = TokenGrid.regular(16, 16, 256, 256)
    picture = np.zeros((256, 256), np.uint8)
    kept = {}
    for coverage in COVERAGE_KINDS:
        state = KeepState(grid, KeepConfig(coverage=coverage, period_s=period_s))
        kept[coverage] = [int(state.step(slot, lambda: picture).keep.sum()) for slot in range(161)]
    period = int(period_s * 2)
    assert kept["anchor"] == kept["background"] == [256 if slot % period == 0 else 0 for slot in range(161)]
    assert kept["rolling"][0] == 256
    assert sum(kept["rolling"][1:]) == sum(kept["anchor"][1:]) == 256 * 160 // period
    assert max(kept["rolling"][1:]) <= -(-256 // period)


def test_an_anchor_waits_for_a_keyframe_but_not_for_ever() -> None:
    grid = TokenGrid.regular(2, 2, 64, 64)
    picture = np.zeros((64, 64), np.uint8)

    def anchors(*keyframes: int) -> list[int]:
        state = KeepState(grid, KeepConfig(period_s=Fraction(4), slack_s=Fraction(3)))
        decided = ((slot, state.step(slot, lambda: picture, keyframe=slot in keyframes)) for slot in range(40))
        return [slot for slot, decision in decided if decision.anchor]

    assert anchors(0, 10, 12, 18, 24, 32) == [0, 10, 18, 24, 32]
    assert anchors() == [0, 14, 22, 30, 38]
    assert anchors(0, 15) == [0, 14, 22, 30, 38], "the one that was due at 8 has been"
    assert anchors(0, 17) == [0, 14, 17, 30, 38]


def test_a_coverage_slot_without_a_frame_is_made_up_for_in_the_next_frame() -> None:
    grid = TokenGrid.regular(2, 2, 64, 64)
    picture = np.zeros((64, 64), np.uint8)
    state = KeepState(grid, KeepConfig(period_s=Fraction(4)))
    anchors = [slot for slot in (3, 6, 7, 9, 10, 17, 33) if state.step(slot, lambda: picture).anchor]
    assert anchors == [3, 9, 17, 33]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8", ("anchor", Fraction(8), Fraction(8))),
        ("30", ("anchor", Fraction(30), Fraction(10))),
        ("0.5", ("anchor", Fraction(1, 2), Fraction(1, 2))),
        ("once", ("anchor", Fraction(40), Fraction(0))),
        ("rolling", ("rolling", Fraction(40), Fraction(0))),
        ("rolling=8", ("rolling", Fraction(8), Fraction(0))),
        ("background", ("background", Fraction(120), Fraction(16))),
        ("background=600", ("background", Fraction(600), Fraction(16))),
        ("background=4", ("background", Fraction(4), Fraction(4))),
    ],
)
def test_coverage_by_name(text: str, expected: tuple[str, Fraction, Fraction]) -> None:
    assert parse_coverage(text, Fraction(40), Fraction(2)) == expected


@pytest.mark.parametrize(
    ("window_s", "fps", "period_s"),
    [(40, "2", "8"), (4, "2", "4"), (40, "1/3", "6"), (40, "1/10", "10"), (10, "1/10", "10"), (7, "3", "7")],
)
def test_coverage_that_nobody_asked_for_fits_every_window_and_rate(window_s: int, fps: str, period_s: str) -> None:
    kind, period, slack = parse_coverage(None, Fraction(window_s), Fraction(fps))
    assert (kind, period) == ("anchor", Fraction(period_s))
    config = KeepConfig(fps=Fraction(fps), coverage=kind, period_s=period, slack_s=slack)
    assert config.period_slots >= 1
    assert period + slack <= window_s


@pytest.mark.parametrize(
    "text",
    [
        "",
        "often",
        "0",
        "-8",
        "41",
        "rolling=",
        "rolling=0",
        "rolling=80",
        "rollin",
        "1/0",
        "background=",
        "background=0",
        "background=x",
    ],
)
def test_coverage_that_cannot_work_is_one_clear_line(text: str) -> None:
    with pytest.raises(ConfigError, match="coverage") as error:
        parse_coverage(text, Fraction(40), Fraction(2))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"policy": "some"},
        {"coverage": "never"},
        {"fps": Fraction(0)},
        {"period_s": Fraction(1, 3)},
        {"period_s": Fraction(0)},
        {"threshold": -1.0},
        {"detail_threshold": 256.0},
        {"tau_px": 0.0},
    ],
)
def test_a_configuration_that_cannot_work_is_one_clear_line(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        KeepConfig(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
