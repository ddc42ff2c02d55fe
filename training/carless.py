"""Streets without their vehicles: what photographs of vehicles show above them, on the ground that others show below them.

All photographs of streets that may be trained on show vehicles, so a street was as good as a vehicle. carless.csv names the
parts in which, seen by eye, there are neither vehicles nor people.
"""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ABOVE, BELOW = 0.03, 0.01
"""Shares of a photograph's height by which its parts keep away from the vehicles' boxes."""

ALONE = 0.3
"""Share of a photograph's height from which the part above its vehicles is a place by itself."""


def read_parts(path: Path = Path(__file__).parent / "carless.csv") -> dict[str, set[str]]:
    """Names of photographs by "above" and "below"."""
    parts: dict[str, set[str]] = {"above": set(), "below": set()}
    with path.open() as file:
        for row in csv.DictReader(file):
            parts[row["part"]].add(row["file"])
    return parts


def limits(row: dict[str, Any], parts: dict[str, set[str]]) -> tuple[float, float]:
    """Of a row of photos.json: above which share of the height, and below which, there are no vehicles. (0, 1): nothing is
    known."""
    name = row["file"].removeprefix("vehicles-")
    if name == row["file"] or not row["boxes"]:
        return 0.0, 1.0
    above = min(box[2] for box in row["boxes"]) - ABOVE if name in parts["above"] else 0.0
    below = max(box[4] for box in row["boxes"]) + BELOW if name in parts["below"] else 1.0
    return max(0.0, above), min(1.0, below)


def fronts(photos: list[dict[str, Any]], folder: Path) -> list[Image.Image]:
    """The parts above vehicles that are high enough to be places by themselves: houses, trees, shop fronts."""
    parts = read_parts()
    high = [(row["file"], until) for row in photos if (until := limits(row, parts)[0]) >= ALONE]

    def one(part: tuple[str, float]) -> Image.Image:
        image = Image.open(folder / part[0]).convert("RGB")
        return image.crop((0, 0, image.width, int(part[1] * image.height)))

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, high))


def streets(photos: list[dict[str, Any]], folder: Path, seed: int) -> list[Image.Image]:
    """One for each part above. `photos`: rows of photos.json; `folder`: where their files are."""
    parts, rng = read_parts(), np.random.default_rng(seed)
    above, below = [], []
    for row in photos:
        until, begin = limits(row, parts)
        if row["file"].removeprefix("vehicles-") in parts["above"]:
            above.append((row["file"], until))
        if begin < 1:
            below.append((row["file"], begin))
    if not below:
        return []

    def one(pair: tuple[int, int]) -> Image.Image:
        (file, until), (other, begin) = above[pair[0]], below[pair[1]]
        upper, lower = (Image.open(folder / name).convert("RGB") for name in (file, other))
        upper = upper.crop((0, 0, upper.width, max(8, int(until * upper.height))))
        lower = lower.crop((0, min(lower.height - 8, int(begin * lower.height) + 1), lower.width, lower.height))
        return _joined(upper, lower, np.random.default_rng((seed, pair[0])))

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, enumerate(rng.integers(len(below), size=len(above)).tolist())))


def _joined(upper: Image.Image, lower: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`upper` on `lower`, which takes 30 to 80 % of the height, the seam blurred a little."""
    width = upper.width
    share = float(rng.uniform(0.3, 0.8))
    high = round(width / rng.uniform(1.0, 1.9))
    ground = max(8, round(high * share))
    if rng.random() < 0.5:
        lower = lower.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    low = max(8, min(ground, round(lower.height * width / lower.width * 1.6)))
    strip = np.asarray(lower.resize((width, low), Image.Resampling.BICUBIC))
    # A strip that is too low is continued by its mirror image.
    tiles = [strip if k % 2 == 0 else strip[::-1] for k in range(-(-ground // len(strip)))]
    floor = np.concatenate(tiles[::-1])[-ground:].astype(np.float32)
    wall = np.asarray(upper.resize((width, max(8, high - ground)), Image.Resampling.BICUBIC), np.float32)
    soft = min(len(wall), len(floor), int(rng.integers(2, 10)))
    mix = np.linspace(0, 1, soft + 2)[1:-1, None, None]
    seam = wall[-soft:] * (1 - mix) + floor[:soft] * mix
    picture = np.concatenate([wall[:-soft], seam, floor[soft:]])
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))
