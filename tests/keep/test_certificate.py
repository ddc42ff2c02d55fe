"""The default policy's guarantee: nothing that it drops is stale, and certified tokens need no pixels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecflow.errors import MessageError
from codecflow.grid import TokenGrid
from codecflow.keep import KeepConfig, KeepState
from codecflow.keep.boxes import Cells
from codecflow.messages import NO_BOUND, UNCHANGED, Exposure, Signal
from tests.keep.random_pictures import (
    Picture,
    Producer,
    differs,
    overlapping_grid,
    step,
)


@st.composite
def grids(draw: st.DrawFn) -> TokenGrid:
    """Token grids over pictures of any size: regular ones (neighbours overlap by a sample) and arbitrary boxes."""
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 70))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    if draw(st.booleans()):
        return TokenGrid.regular(min(rows, height), min(columns, width), width, height)
    return overlapping_grid(np.random.default_rng(draw(st.integers(0, 2**32))), width, height, rows, columns)


def next_picture(rng: np.random.Generator, picture: Picture) -> Picture:
    """`picture` with noise, a changed rectangle, brightness, or no change; sometimes a completely new one."""
    height, width = picture.shape
    kind = rng.integers(0, 6)
    now = picture.astype(int)
    if kind <= 1:
        now += rng.integers(-2, 3, picture.shape) * (rng.random() < 0.7)
    elif kind <= 3:
        y, x = rng.integers(0, height), rng.integers(0, width)
        now[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] += int(rng.integers(-60, 61))
    elif kind == 4:
        now += int(rng.integers(-3, 4))
    else:
        now = rng.integers(0, 256, picture.shape)
    return np.clip(now, 0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(grids(), st.integers(0, 2**32), st.sampled_from([0.0, 1.5, 4.0, 20.0]), st.sampled_from([3.0, 8.0, 255.0]))
def test_nothing_dropped_is_stale_and_nothing_certified_was_looked_at(
    grid: TokenGrid, seed: int, threshold: float, detail_threshold: float
) -> None:
    """A token dropped on the certificate would also be dropped by comparing pixels, and one decided by pixels is dropped if
    they are within. Over changing references, exposures, noise, lost signals and frames, and decoders whose samples differ
    from the producer's."""
    rng = np.random.default_rng(seed)
    state = KeepState(
        grid, KeepConfig(threshold=threshold, detail_threshold=detail_threshold, period_s=Fraction(1_000_000))
    )
    of_cells = detail_threshold * min(1, Cells(grid).seen / 0.48)
    producer = Producer()
    shown = rng.integers(0, 256, (grid.height, grid.width)).astype(np.uint8)
    kept = [shown.astype(float)] * grid.tokens  # what was last kept, in the reference's exposure
    raw = list(kept)
    renew: Exposure | None = None
    for slot in range(8):
        for _ in range(int(rng.integers(1, 4))):
            shown = next_picture(rng, shown) if slot else shown
            slack = rng.integers(0, 4, (-(-grid.height // 16), -(-grid.width // 16))) * int(rng.integers(0, 2))
            slack[rng.random(slack.shape) < 0.03] = NO_BOUND
            exposure = UNCHANGED
            if rng.random() < 0.3:
                exposure = Exposure(int(rng.integers(200, 320)), int(rng.integers(-99, 100)))
            signal = producer.show(
                shown,
                reference=rng.random() < 0.3,
                exposure=exposure,
                noise=int(rng.choice([0, 5, 40])),
                slack=slack.astype(np.uint8),
            )
            seen = rng.random() < 0.9
            if seen:
                kept, renew = observed(kept, renew), signal.exposure if signal.reference else None
                state.observe(signal)
        if not seen:
            signal = producer.show(shown)  # only whole documents are lost, and no frame is sampled without one
            kept, renew = observed(kept, renew), signal.exposure if signal.reference else None
            state.observe(signal)
        decoded = next_picture(rng, shown) if rng.random() < 0.1 else shown
        calls: list[int] = []

        def luma(now: Picture = decoded, calls: list[int] = calls, other: bool = decoded is not shown) -> Picture:
            calls.append(1)
            if other:
                state.invalidate()
            return now

        decision = state.step(slot, luma)
        assert len(calls) == (0 if decision.certified.all() else 1)
        assert not (decision.keep & decision.certified).any()
        assert not (decision.compared & decision.certified).any()
        least = [max(one, min(times * signal.noise / 8, 16)) for one, times in ((threshold, 1.5), (of_cells, 3.3))]
        for token in range(grid.tokens):
            now = shown if decision.certified[token] else decoded
            then = signal.exposure.of(kept[token])
            mean, largest = differs(grid, token, now - then)
            exposed, _ = differs(grid, token, then - raw[token])
            within = mean <= least[0] + 1e-9 and largest <= least[1] + 1e-9 and exposed <= 32 + 1e-9
            if decision.keep[token]:
                kept[token] = (decoded - signal.exposure.offset / 8) / (signal.exposure.gain / 256)
                raw[token] = decoded.astype(float)
                clearly = mean < least[0] - 1e-9 and largest < least[1] - 1e-9 and exposed < 32 - 1e-9
                assert slot == 0 or not clearly, f"token {token} was kept at {mean}, {largest} grey levels"
            else:
                assert within, f"token {token} is stale: {mean}, {largest}, {exposed} grey levels"


def observed(kept: list[npt.NDArray[np.float64]], renew: Exposure | None) -> list[npt.NDArray[np.float64]]:
    """What was kept, before the next signal: relative to the new reference, when the previous picture became one."""
    return kept if renew is None else [renew.of(one) for one in kept]


def measured(
    change: npt.NDArray[np.uint8], tick: int = 1, since: int = 0, *, reference: bool = False, **others: Any
) -> Signal:
    """A signal against the picture of tick `since`."""
    return Signal(
        tick, Fraction(1, 2), change, None, None, since=since, previous=tick - 1, reference=reference, **others
    )


def first(rows: int, columns: int) -> Signal:
    """An epoch's first signal: its picture is the reference."""
    return Signal(0, Fraction(1, 2), np.full((rows, columns), NO_BOUND, np.uint8), None, None, reference=True)


def no_pixels() -> Picture:
    raise AssertionError("pixels were asked for")


def test_a_signal_that_bounds_every_block_needs_no_pixels_however_long_it_goes_on() -> None:
    """The certificate is useful: it must not be correct by never certifying. Noise of a grey level does not add up."""
    grid = TokenGrid.regular(16, 16, 768, 432)
    state = KeepState(grid, KeepConfig(period_s=Fraction(10_000)))
    picture = np.random.default_rng(0).integers(0, 256, (432, 768)).astype(np.uint8)
    assert step(state, 0, first(27, 48), lambda: picture).keep.all()
    for slot in range(1, 500):
        decision = step(state, slot, measured(np.full((27, 48), 8, np.uint8), slot), no_pixels)
        assert decision.certified.all()
        assert not decision.keep.any()


def test_what_was_kept_is_two_steps_away_until_the_reference_is_renewed() -> None:
    grid = TokenGrid.regular(1, 1, 64, 64)
    state = KeepState(grid, KeepConfig(detail_threshold=255.0, period_s=Fraction(100)))
    step(state, 0, first(4, 4), lambda: np.full((64, 64), 100, np.uint8))
    moved = np.full((64, 64), 106, np.uint8)
    assert step(state, 1, measured(np.full((4, 4), 48, np.uint8), 1), lambda: moved).keep.all()
    decision = step(state, 2, measured(np.full((4, 4), 48, np.uint8), 2, reference=True), lambda: moved)
    assert decision.compared.all()  # 6 grey levels to the reference, and 6 from there
    assert not decision.keep.any()
    assert step(state, 3, measured(np.full((4, 4), 24, np.uint8), 3, since=2), no_pixels).certified.all()


def test_a_signal_against_a_reference_that_was_missed_bounds_nothing_until_pixels_were_looked_at() -> None:
    grid = TokenGrid.regular(1, 1, 64, 64)
    state = KeepState(grid, KeepConfig(period_s=Fraction(100)))
    picture = np.full((64, 64), 100, np.uint8)
    still = np.zeros((4, 4), np.uint8)
    step(state, 0, first(4, 4), lambda: picture)
    assert step(state, 2, measured(still, 2, since=1), lambda: picture).compared.all()
    assert step(state, 3, measured(still, 3, since=1), no_pixels).certified.all()


def test_samples_other_than_the_producers_are_no_witness() -> None:
    grid = TokenGrid.regular(1, 1, 64, 64)
    state = KeepState(grid, KeepConfig(period_s=Fraction(100)))
    still = np.zeros((4, 4), np.uint8)

    def other() -> Picture:
        state.invalidate()
        return np.full((64, 64), 200, np.uint8)

    step(state, 0, first(4, 4), other)
    decision = step(state, 1, measured(still, 1), lambda: np.full((64, 64), 100, np.uint8))
    assert decision.keep.all(), "the signal says that nothing changed since a picture which was not this one"


def test_pixels_are_compared_only_where_the_signal_cannot_tell_and_the_bound_restarts_there() -> None:
    grid = TokenGrid.regular(4, 4, 128, 128)
    state = KeepState(grid, KeepConfig())
    picture = np.full((128, 128), 100, np.uint8)
    step(state, 0, first(8, 8), lambda: picture)
    change = np.zeros((8, 8), np.uint8)
    change[:2, :2] = NO_BOUND  # only the first token's blocks
    decision = step(state, 1, measured(change, 1, reference=True), lambda: picture)
    assert decision.compared.tolist() == [True] + [False] * 15
    assert not decision.keep.any()
    after = step(state, 2, measured(np.zeros((8, 8), np.uint8), 2, since=1), no_pixels)
    assert after.certified.all(), "the bound restarts at the measured difference, zero here"


def test_all_bounds_restart_when_pixels_are_there_so_that_few_frames_need_them() -> None:
    """A still, noisy scene without anchors. Bounds grow by a grey level with each reference, from different frames on."""
    grid = TokenGrid.regular(4, 4, 128, 128)
    state = KeepState(grid, KeepConfig(period_s=Fraction(10_000)))
    picture = np.full((128, 128), 100, np.uint8)
    step(state, 0, first(8, 8), lambda: picture)
    calls: list[int] = []

    def luma() -> Picture:
        calls.append(1)
        return picture

    for slot in range(1, 161):
        change = np.full((8, 8), 8, np.uint8)
        if slot <= 16:  # something in one token after the other
            row, column = divmod(slot - 1, 4)
            change[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = NO_BOUND
        since = (slot - 1) // 4 * 4
        assert not step(state, slot, measured(change, slot, since, reference=slot % 4 == 0), luma).keep.any()
    assert len(calls) - 16 <= (160 - 16) / 7, "one after the other they would need 36"


def test_a_frame_that_cannot_be_decoded_leaves_everything_as_it_was() -> None:
    grid = TokenGrid.regular(1, 1, 64, 64)
    state = KeepState(grid, KeepConfig())
    picture = np.full((64, 64), 100, np.uint8)
    step(state, 0, first(4, 4), lambda: picture)

    def lost() -> Picture:
        raise LookupError

    with pytest.raises(LookupError):
        step(state, 1, measured(np.full((4, 4), NO_BOUND, np.uint8), 1), lost)
    assert step(state, 2, measured(np.zeros((4, 4), np.uint8), 2), no_pixels).certified.all()


def test_a_small_thing_in_a_token_is_kept_though_the_mean_hides_it() -> None:
    grid = TokenGrid.regular(1, 1, 28, 28)
    picture = np.full((28, 28), 100, np.uint8)
    spot = picture.copy()
    spot[9:14, 9:14] += 80  # 25 pixels x 80 / 784 = 2.6 on average, 31 in a cell
    for detail_threshold, kept in ((7.75, True), (255.0, False)):
        state = KeepState(grid, KeepConfig(detail_threshold=detail_threshold))
        state.step(0, lambda: picture)
        assert bool(state.step(1, lambda: spot).keep[0]) is kept


@pytest.mark.parametrize(("threshold", "detail_threshold"), [(4.0, 255.0), (255.0, 4.0)])
def test_slow_drift_is_kept_as_soon_as_it_adds_up(threshold: float, detail_threshold: float) -> None:
    """Every step is below the threshold: comparing with the previous frame would never keep it."""
    grid = TokenGrid.regular(2, 2, 64, 64)
    state = KeepState(grid, KeepConfig(threshold=threshold, detail_threshold=detail_threshold, period_s=Fraction(100)))
    producer, kept = Producer(), []
    for slot in range(12):
        picture = np.full((64, 64), 100 + slot, np.uint8)
        signal = producer.show(picture, reference=slot % 4 == 3)
        kept.append(bool(step(state, slot, signal, lambda picture=picture: picture).keep.all()))
    assert [slot for slot, all_kept in enumerate(kept) if all_kept] == [0, 5, 10]


@pytest.mark.parametrize("least", [0, 1])
def test_exposure_that_explains_a_change_is_none_until_it_adds_up(least: int) -> None:
    """By 12 grey levels from reference to reference: each is explained, and the third exceeds what the kept picture
    allows."""
    grid = TokenGrid.regular(2, 2, 64, 64)
    state = KeepState(grid, KeepConfig(period_s=Fraction(1000)))
    producer, kept = Producer(), []
    scene = np.random.default_rng(0).integers(40, 120, (64, 64)).astype(np.uint8)
    for slot in range(6):
        picture = scene + np.uint8(12 * slot)
        picture[:32, :32] += np.uint8(30 * (slot == 1) * least)  # and an object, briefly
        signal = producer.show(picture, reference=True, exposure=Exposure(256, 96))
        kept.append(step(state, slot, signal, lambda picture=picture: picture).keep.tolist())
    gone = [bool(least), False, False, False]
    assert kept[:3] == [[True] * 4, gone, gone]
    assert kept[3] == [False, True, True, True] if least else [True] * 4
    assert sum(map(any, kept[4:])) <= 1


@pytest.mark.parametrize("size", [(352, 288), (480, 270), (640, 360), (1280, 720)])
def test_a_change_of_7x7_pixels_by_16_levels_is_kept_in_pictures_of_any_size(size: tuple[int, int]) -> None:
    """In small pictures a cell of the codec signal is larger than 7x7 pixels of 448, and shows less of the change."""
    rng, (width, height) = np.random.default_rng(3), size
    grid = TokenGrid.regular(16, 16, width, height)
    wide, high = (-(-side * 7 // 448) for side in size)
    still = np.full((height, width), 100, np.uint8)
    for _ in range(12):
        state, producer = KeepState(grid, KeepConfig()), Producer()
        step(state, 0, producer.show(still), lambda: still)
        changed = still.copy()
        x, y = int(rng.integers(width - wide)), int(rng.integers(height - high))
        changed[y : y + high, x : x + wide] += np.uint8(17)
        decision = step(state, 1, producer.show(changed), lambda changed=changed: changed)
        assert 1 <= decision.keep.sum() <= 4, (x, y)


def test_noise_raises_the_thresholds_but_not_without_end() -> None:
    grid = TokenGrid.regular(1, 1, 64, 64)
    still = np.full((64, 64), 100, np.uint8)
    for noise, change, kept in ((0, 8, True), (24, 8, False), (24, 11, True), (255, 15, False), (255, 17, True)):
        state = KeepState(grid, KeepConfig(threshold=255.0))
        producer = Producer()
        step(state, 0, producer.show(still), lambda: still)
        spot = still.copy()
        spot[16:32, 16:32] += np.uint8(change)
        decision = step(state, 1, producer.show(spot, noise=noise), lambda spot=spot: spot)
        assert bool(decision.keep[0]) is kept, (noise, change)


def test_no_bound_is_no_number() -> None:
    """255 eighths would be 32 grey levels; the block changed by 200."""
    state = KeepState(TokenGrid.regular(1, 1, 16, 16), KeepConfig(threshold=60.0, detail_threshold=255.0))
    step(state, 0, first(1, 1), lambda: np.zeros((16, 16), np.uint8))
    no_bound = measured(np.full((1, 1), NO_BOUND, np.uint8))
    assert step(state, 1, no_bound, lambda: np.full((16, 16), 200, np.uint8)).keep.all()


def test_a_signal_of_another_picture_size_is_refused() -> None:
    state = KeepState(TokenGrid.regular(2, 2, 64, 64), KeepConfig())
    state.step(0, lambda: np.zeros((64, 64), np.uint8))
    with pytest.raises(MessageError, match="signal of 5x4 blocks does not fit a picture of 64x64"):
        state.observe(measured(np.zeros((5, 4), np.uint8)))
