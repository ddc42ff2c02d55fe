"""What the default policy keeps of noise, weather, small and slow objects: encoded, decoded and decided as in production."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from .scenes import HEIGHT, SIDE, WIDTH, masks, street, tokens_under

Grey = npt.NDArray[np.float64]


@pytest.mark.parametrize(("sigma", "offset", "least"), [(3, 0, 0.95), (6, 12, 0.25), (12, 12, 0.25)])
def test_what_walks_through_noise_is_kept_where_it_is_and_noise_is_not(
    sigma: int, offset: int, least: float, tmp_path: Path
) -> None:
    """Grey, with a contrast of 1.5 sigma; if that is less than a cell's threshold, tokens that it fills."""
    rng, scene = np.random.default_rng(sigma), street()

    def place(index: int) -> tuple[int, int, int, int]:
        return 56 * (index - 2) + offset, 64, 56, 96

    def draw(index: int) -> Grey:
        picture = scene.copy()
        x, y, width, height = place(index)
        picture[y : y + height, max(0, x) : max(0, x + width)] += 1.5 * sigma
        return picture + rng.normal(0, sigma, scene.shape)

    kept = masks(tmp_path / "walk.mp4", 10, draw, options={"crf": "10", "preset": "veryfast"})
    elsewhere = np.mean([mask & ~near(*place(i)) & ~near(*place(i - 1)) for i, mask in enumerate(kept) if i])
    for index, mask in enumerate(kept[1:], start=1):
        new = tokens_under(*place(index), least=least)
        assert mask[new].all(), f"frame {index} lacks part of what walks there"
    assert elsewhere < 0.06


def near(x: int, y: int, width: int, height: int) -> npt.NDArray[np.bool_]:
    return tokens_under(x - 8, y - 8, width + 16, height + 16, least=1e-6)


def test_rain_costs_little(tmp_path: Path) -> None:
    """Thin bright streaks, new in each picture: they mostly average out in a cell."""
    rng, scene = np.random.default_rng(1), street()

    def draw(index: int) -> Grey:
        picture = scene.copy()
        for x, y in zip(rng.integers(0, WIDTH, 250), rng.integers(0, HEIGHT - 12, 250), strict=True):
            picture[y : y + 12, x] += 30
        return picture

    kept = masks(tmp_path / "rain.mp4", 10, draw)
    assert np.mean(kept[1:]) < 0.2


def test_a_lamp_that_flickers_over_all_of_the_picture_is_exposure(tmp_path: Path) -> None:
    kept = masks(tmp_path / "flicker.mp4", 12, lambda index: street() * (1 + 0.06 * (-1) ** index) + 3 * (index % 3))
    assert np.mean(kept[1:]) < 0.05


def test_an_exposure_step_does_not_hide_what_comes_with_it(tmp_path: Path) -> None:
    """As bright as the scene was before: the pictures alone show no change there."""

    def draw(index: int) -> Grey:
        picture = street() * (1 if index < 4 else 0.85) - (0 if index < 4 else 5)
        if index >= 6:
            picture[64:128, 112:168] = street()[64:128, 112:168]
        return picture

    kept = masks(tmp_path / "step.mp4", 9, draw)
    assert kept[4].sum() <= 3
    assert kept[5].sum() <= 3
    assert kept[6][tokens_under(112, 64, 56, 64)].all()
    assert kept[6].sum() < 10


def test_a_camera_that_shakes_by_a_pixel_keeps_no_more_than_edges(tmp_path: Path) -> None:
    rng, scene = np.random.default_rng(2), street()
    kept = masks(
        tmp_path / "shake.mp4",
        10,
        lambda _: np.roll(scene, (int(rng.integers(-1, 2)), int(rng.integers(-1, 2))), (0, 1)),
    )
    flat = masks(tmp_path / "flat.mp4", 6, lambda index: np.roll(np.full_like(scene, 90) + stripe(), index % 2, 1))
    assert np.mean(flat[1:]) <= 2 / SIDE
    assert np.mean(kept[1:]) < 0.9  # grey edges of up to 150 levels move by a pixel: each sample of one counts 150 / 16


def stripe() -> Grey:
    """A single edge from top to bottom."""
    return np.where(np.arange(WIDTH) < 200, 0.0, 80.0)[None].repeat(HEIGHT, 0)


def test_a_pedestrian_of_16_pixels_is_kept_in_the_frame_in_which_she_comes(tmp_path: Path) -> None:
    """16 pixels of 448 high: 9 samples here, and 5 wide, far away on a grey road."""

    def draw(index: int) -> Grey:
        picture = np.full((HEIGHT, WIDTH), 110.0)
        if index >= 2:
            x = 100 + 14 * index
            picture[120:129, x : x + 5] = 40
        return picture

    kept = masks(tmp_path / "pedestrian.mp4", 8, draw)
    assert not kept[1].any()
    for index in range(2, 8):
        under = tokens_under(100 + 14 * index, 120, 5, 9, least=0.01)
        assert kept[index][under].any(), index
        assert kept[index].sum() <= 4


def test_a_slow_fade_is_kept_as_soon_as_it_has_added_up(tmp_path: Path) -> None:
    """Half a grey level per frame, in a corner: 4 of them after 8 frames."""

    def draw(index: int) -> Grey:
        picture = street()
        picture[:64, :112] += 0.5 * index
        return picture

    kept = masks(tmp_path / "fade.mp4", 24, draw, options={"qp": "4", "preset": "veryfast"}, keyframes=16)
    counts = [int(mask[:2, :2].sum()) for mask in kept]
    assert 8 <= next(index for index, count in enumerate(counts) if index and count) <= 11
    assert sum(counts[1:]) >= 2 * 4, "again when it has added up again"
    assert sum(int(mask[2:].sum()) for mask in kept[1:]) <= 2


def test_a_light_switched_on_far_away_is_kept_in_that_frame(tmp_path: Path) -> None:
    """Night: a window of 4x5 samples."""

    def draw(index: int) -> Grey:
        picture = np.full((HEIGHT, WIDTH), 24.0)
        if index >= 3:
            picture[100:105, 300:304] = 200
        return picture

    kept = masks(tmp_path / "light.mp4", 6, draw)
    assert [bool(mask.any()) for mask in kept] == [True, False, False, True, False, False]
    assert kept[3][tokens_under(300, 100, 4, 5, least=0.001)].any()


def test_a_display_whose_text_changes_is_kept_when_it_does(tmp_path: Path) -> None:
    """Digits of 10x16 samples with strokes of 3, one of which changes every third frame."""
    strokes = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 0, 1], [1, 1, 1]])  # an 8

    def draw(index: int) -> Grey:
        picture = np.full((HEIGHT, WIDTH), 30.0)
        for place in range(4):
            digit = strokes.ravel().astype(float)
            if place == 2 and (index // 3) % 2:
                digit[3], digit[9] = 0, 0  # an 8 becomes a 3
            shape = digit.reshape(5, 3).repeat(3, 0).repeat(3, 1)
            picture[100 : 100 + 15, 200 + 14 * place : 209 + 14 * place] += 170 * shape
        return picture

    kept = masks(tmp_path / "display.mp4", 9, draw)
    assert [bool(mask.any()) for mask in kept[1:]] == [False, False, True, False, False, True, False, False]
