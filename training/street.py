"""Things of streets and plazas that are no vehicles, drawn: photographs with a licence and complete labels show few.

Containers, kiosks, stalls, benches, railings, posts, bicycles, crates, tents, each as layers of flat shapes, shaded.
As large as a car and as boxy, they teach what a vehicle is not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Bytes = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

FINE = 3
"""How much finer than it is kept a thing is drawn."""


class Sketch:
    """A canvas of (wide, high) pixels on which shares of both sides are drawn."""

    def __init__(self, rng: np.random.Generator, wide: int, high: int) -> None:
        self.rng, self.size = rng, (wide * FINE, high * FINE)
        self.picture = Image.new("RGBA", self.size, (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.picture)

    def colour(self, low: float = 20, high: float = 240) -> Colour:
        grey, tint = self.rng.uniform(low, high), self.rng.normal(0, 28, 3)
        r, g, b = (int(v) for v in np.clip(grey + tint, 4, 251))
        return r, g, b

    def shape(self, points: list[tuple[float, float]], fill: Colour) -> None:
        self.draw.polygon([(x * self.size[0], y * self.size[1]) for x, y in points], fill=(*fill, 255))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    def line(self, points: list[tuple[float, float]], fill: Colour, width: float) -> None:
        """`width`: a share of the height."""
        pixels = max(1, round(width * self.size[1]))
        self.draw.line([(x * self.size[0], y * self.size[1]) for x, y in points], fill=(*fill, 255), width=pixels)

    def ring(self, x: float, y: float, radius: float, fill: Colour, width: float) -> None:
        """`radius`, `width`: shares of the height."""
        cx, cy, r = x * self.size[0], y * self.size[1], radius * self.size[1]
        self.draw.ellipse(
            (cx - r, cy - r, cx + r, cy + r), outline=(*fill, 255), width=max(1, round(width * self.size[1]))
        )

    def finished(self) -> Bytes:
        small = self.picture.resize((self.size[0] // FINE, self.size[1] // FINE), Image.Resampling.BOX)
        small = small.filter(ImageFilter.GaussianBlur(float(self.rng.uniform(0.2, 1.2))))
        rgba = np.asarray(small).astype(np.float32)
        light = np.linspace(self.rng.uniform(0.75, 1.2), self.rng.uniform(0.75, 1.2), rgba.shape[1])
        rgba[..., :3] = rgba[..., :3] * light[None, :, None] + self.rng.normal(0, 5, rgba.shape[:2])[..., None]
        return rgba.clip(0, 255).astype(np.uint8)


def shade(colour: Colour, factor: float) -> Colour:
    r, g, b = (int(np.clip(v * factor, 0, 255)) for v in colour)
    return r, g, b


def container(rng: np.random.Generator) -> Bytes:
    s = Sketch(rng, int(rng.uniform(110, 220)), int(rng.uniform(70, 110)))
    paint, lid, side = s.colour(), rng.uniform(0.05, 0.25), rng.uniform(0.0, 0.25)
    s.shape([(0, lid), (side, 0), (1, 0), (1 - side, lid)], shade(paint, 1.25))
    s.box(0, lid, 1 - side, 1, paint)
    s.shape([(1 - side, lid), (1, 0), (1, 1 - lid), (1 - side, 1)], shade(paint, 0.6))
    for x in np.arange(0.03, 1 - side, rng.uniform(0.04, 0.2)):
        s.line([(x, lid), (x, 1)], shade(paint, rng.uniform(0.6, 0.9)), 0.02)
    return s.finished()


def kiosk(rng: np.random.Generator) -> Bytes:
    s = Sketch(rng, int(rng.uniform(80, 180)), int(rng.uniform(90, 150)))
    wall, roof = s.colour(), s.colour(20, 160)
    s.box(0.06, 0.15, 0.94, 1, wall)
    s.shape([(0, 0.18), (rng.uniform(0.0, 0.3), 0), (rng.uniform(0.7, 1.0), 0), (1, 0.18)], roof)
    for k in range(n := int(rng.integers(1, 4))):
        left = 0.1 + k * 0.8 / n
        s.box(left, 0.3, left + 0.7 / n, rng.uniform(0.55, 0.7), s.colour(10, 110 if rng.random() < 0.7 else 240))
    s.box(0.06, 0.22, 0.94, 0.29, s.colour(60, 250))
    if rng.random() < 0.5:
        s.box(0.7, 0.5, 0.85, 1, shade(wall, 0.5))
    return s.finished()


def stall(rng: np.random.Generator) -> Bytes:
    s = Sketch(rng, int(rng.uniform(90, 200)), int(rng.uniform(80, 130)))
    one, other, deep = s.colour(90, 250), s.colour(60, 250), rng.uniform(0.2, 0.4)
    n = int(rng.integers(1, 12))
    for k in range(n):
        a, b = k / n, (k + 1) / n
        s.shape([(0.1 + a * 0.8, 0), (0.1 + b * 0.8, 0), (b, deep), (a, deep)], one if k % 2 else other)
    for x in (0.05, 0.95):
        s.line([(x, deep), (x, 1)], shade(one, 0.4), 0.03)
    s.box(0.08, rng.uniform(0.55, 0.7), 0.92, rng.uniform(0.8, 1), s.colour(30, 200))
    for _ in range(int(rng.integers(0, 14))):
        x = rng.uniform(0.1, 0.85)
        s.box(x, rng.uniform(0.45, 0.6), x + rng.uniform(0.03, 0.12), 0.68, s.colour())
    return s.finished()


def bench(rng: np.random.Generator) -> Bytes:
    s = Sketch(rng, int(rng.uniform(100, 190)), int(rng.uniform(40, 80)))
    wood = s.colour(30, 180)
    for y in np.arange(0, 0.4, rng.uniform(0.1, 0.2)):
        s.box(0, y, 1, y + 0.08, wood)
    s.shape([(0, 0.5), (1, 0.5), (0.97, 0.68), (0.03, 0.68)], shade(wood, 1.2))
    for x in (0.1, 0.9):
        s.line([(x, 0), (x, 1)], shade(wood, 0.4), 0.06)
    return s.finished()


def railing(rng: np.random.Generator) -> Bytes:
    s = Sketch(rng, int(rng.uniform(140, 220)), int(rng.uniform(40, 110)))
    metal, slant = s.colour(20, 220), rng.uniform(-0.3, 0.3)
    top, width = max(0.0, slant), rng.uniform(0.02, 0.06)
    for y in (0.04, rng.uniform(0.4, 0.9)):
        s.line([(0, top + y * (1 - abs(slant))), (1, top - slant + y * (1 - abs(slant)))], metal, width * 1.4)
    for x in np.arange(0.02, 1, rng.uniform(0.03, 0.16)):
        s.line([(x, top - slant * x), (x, top - slant * x + 1 - abs(slant))], metal, width)
    return s.finished()


def post(rng: np.random.Generator) -> Bytes:
    s = Sketch(rng, int(rng.uniform(14, 60)), int(rng.uniform(110, 220)))
    metal, half = s.colour(15, 230), rng.uniform(0.05, 0.3)
    s.shape([(0.5 - half * 0.6, 0), (0.5 + half * 0.6, 0), (0.5 + half, 1), (0.5 - half, 1)], metal)
    s.box(0.5 - half, 0, 0.5 - half * 0.2, 1, shade(metal, 0.7))
    if rng.random() < 0.6:  # a lamp, a sign, a bin, a head's place
        y = rng.uniform(0, 0.3)
        s.box(0.02, y, 0.98, y + rng.uniform(0.05, 0.3), s.colour(20, 250))
    for _ in range(int(rng.integers(0, 4))):
        y = rng.uniform(0, 1)
        s.box(0.5 - half, y, 0.5 + half, y + 0.05, s.colour())
    return s.finished()


def bicycle(rng: np.random.Generator) -> Bytes:
    s = Sketch(rng, int(rng.uniform(110, 150)), int(rng.uniform(66, 84)))
    tyre, frame = s.colour(10, 60), s.colour(20, 230)
    for x in (0.22, 0.78):
        s.ring(x, 0.64, 0.34, tyre, 0.05)
        s.ring(x, 0.64, 0.04, frame, 0.04)
    joints = {
        "rear": (0.22, 0.64),
        "crank": (0.46, 0.66),
        "seat": (0.38, 0.2),
        "head": (0.68, 0.22),
        "front": (0.78, 0.64),
    }
    for a, b in (
        ("rear", "crank"),
        ("rear", "seat"),
        ("seat", "crank"),
        ("seat", "head"),
        ("crank", "head"),
        ("head", "front"),
    ):
        s.line([joints[a], joints[b]], frame, 0.045)
    s.line([(0.32, 0.16), (0.44, 0.16)], tyre, 0.07)
    s.line([(0.68, 0.22), (0.66, 0.06), (0.74, 0.04)], tyre, 0.05)
    return s.finished()


def crates(rng: np.random.Generator) -> Bytes:
    s = Sketch(rng, int(rng.uniform(60, 180)), int(rng.uniform(60, 130)))
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.uniform(0, 0.75), rng.uniform(0, 0.7)
        w, h = rng.uniform(0.2, 0.45), rng.uniform(0.2, 0.4)
        paint = s.colour()
        s.box(x, y, min(1, x + w), min(1, y + h), paint)
        s.box(x, y, min(1, x + w), min(1, y + h * 0.25), shade(paint, 1.3))
        s.line([(x, y + h / 2), (min(1, x + w), y + h / 2)], shade(paint, 0.5), 0.03)
    return s.finished()


def tent(rng: np.random.Generator) -> Bytes:
    s = Sketch(rng, int(rng.uniform(90, 200)), int(rng.uniform(70, 140)))
    cloth, peak, rim = s.colour(40, 250), rng.uniform(0.3, 0.7), rng.uniform(0.35, 0.6)
    s.shape([(peak, 0), (0, rim), (peak, rim)], cloth)
    s.shape([(peak, 0), (1, rim), (peak, rim)], shade(cloth, 0.75))
    if rng.random() < 0.5:
        s.box(0.04, rim, 0.96, 1, shade(cloth, 0.9))
    else:
        s.line([(peak, rim), (peak, 1)], shade(cloth, 0.4), 0.04)
    return s.finished()


KINDS: tuple[Callable[[np.random.Generator], Bytes], ...] = (
    container, kiosk, stall, bench, railing, post, post, bicycle, crates, tent,
)  # fmt: skip


def street_thing(rng: np.random.Generator) -> Bytes:
    """(h, w, 4) RGBA of a thing that `rng` chooses."""
    return KINDS[int(rng.integers(len(KINDS)))](rng)
