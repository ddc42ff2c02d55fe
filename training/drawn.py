"""Vehicles seen from above, drawn: photographs of the kind that may be trained on show none.

Each is layers of polygons, from the ground up, each layer shifted a little towards where it leans to in a camera that does
not hang straight above it, then turned: cars, vans, pick-ups and lorries in the colours that roads are full of.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Bytes = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

LONG, FINER = 200, 3
"""A vehicle's length in pixels, and how much finer it is drawn."""

PAINTS: tuple[tuple[float, Colour], ...] = (
    (0.24, (235, 235, 232)),
    (0.2, (168, 172, 176)),
    (0.16, (92, 96, 100)),
    (0.16, (28, 29, 32)),
    (0.08, (150, 28, 30)),
    (0.08, (36, 62, 128)),
    (0.03, (48, 84, 62)),
    (0.03, (196, 178, 140)),
    (0.02, (224, 184, 40)),
)
"""Share and colour of each paint."""


class Drawing:
    """One vehicle that heads to the right, in units of its length, its middle at (0, 0)."""

    def __init__(self, rng: np.random.Generator, wide: float) -> None:
        self.rng, self.wide = rng, wide
        side = int(LONG * FINER * 1.5)
        self.picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self.lean = rng.uniform(-0.05, 0.05, 2)

    def layer(self, points: list[tuple[float, float]], colour: Colour, height: float, alpha: int = 255) -> None:
        """A polygon of (along, across) in lengths and widths; `height`: 0 on the ground, 1 the roof."""
        size, (dx, dy) = LONG * FINER, self.lean * height
        middle = self.picture.width / 2
        xy = [(middle + (x + dx) * size, middle + (y * self.wide + dy) * size) for x, y in points]
        over = Image.new("RGBA", self.picture.size, (0, 0, 0, 0))
        ImageDraw.Draw(over).polygon(xy, fill=(*colour, alpha))
        self.picture.alpha_composite(over)

    def body(self, paint: Colour, roundness: float) -> None:
        """From the shadow up to the bonnet."""
        shadow = self.rng.uniform(-0.06, 0.06, 2)
        outline = _rounded(-0.5, 0.5, roundness)
        self.layer([(x + shadow[0], y * 1.04 + shadow[1]) for x, y in outline], (12, 12, 14), 0, 150)
        self.layer(outline, _shaded(paint, 0.35), 0.1)
        self.layer([(x, y * 0.99) for x, y in outline], _shaded(paint, 0.72), 0.35)
        self.layer([(x, y * 0.93) for x, y in outline], paint, 0.5)
        self.layer([(x, y * 0.55) for x, y in outline], _shaded(paint, 1.06), 0.5, 120)

    def lights(self) -> None:
        for side in (-1, 1):
            lamp = [(0.0, 0.3), (0.0, 0.44), (0.035, 0.44), (0.035, 0.3)]
            self.layer([(0.455 + x, side * y) for x, y in lamp], (225, 225, 215), 0.5)
            self.layer([(x * 0.7 - 0.492, side * y) for x, y in lamp], (150, 20, 24), 0.5)

    def glass(self, back: float, front: float, reach: float) -> None:
        """What is glass all round a cabin, the sky in its windscreen `reach` across; its roof comes on top."""
        tint = int(self.rng.uniform(18, 70))
        pane = (tint, tint + 4, tint + 10)
        self.layer([(back, -0.44), (front, -0.44), (front, 0.44), (back, 0.44)], pane, 0.55)
        shine = _shaded(pane, self.rng.uniform(1.2, 2.4))
        self.layer([(front - 0.05, -0.4), (front, -0.42), (front, reach), (front - 0.05, reach - 0.1)], shine, 0.6)

    def roof(self, paint: Colour, back: float, front: float) -> None:
        self.layer(_rounded(back, front, 0.05, 0.38), _shaded(paint, 0.9), 0.95)
        self.layer(_rounded(back + 0.01, front - 0.01, 0.05, 0.35), _shaded(paint, self.rng.uniform(1.0, 1.12)), 1)

    def finished(self) -> Bytes:
        """(h, w, 4) RGBA, turned some way, cropped to what is drawn."""
        turned = self.picture.rotate(float(self.rng.uniform(0, 360)), Image.Resampling.BICUBIC)
        small = turned.resize((turned.width // FINER, turned.height // FINER), Image.Resampling.BOX)
        small = small.filter(ImageFilter.GaussianBlur(float(self.rng.uniform(0.3, 1.4))))
        rgba = np.asarray(small).astype(np.float32)
        rgba[..., :3] += self.rng.normal(0, self.rng.uniform(1, 6), rgba.shape[:2])[..., None]
        rows, columns = np.nonzero(rgba[..., 3] > 8)
        part = rgba[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        return np.ascontiguousarray(part.clip(0, 255).astype(np.uint8))


def vehicle_from_above(rng: np.random.Generator) -> Bytes:
    """(h, w, 4) RGBA of a vehicle that `rng` chooses."""
    shares = np.array([share for share, _ in PAINTS])
    colour = PAINTS[int(rng.choice(len(PAINTS), p=shares / shares.sum()))][1]
    r, g, b = (int(v) for v in np.clip(np.array(colour) * rng.uniform(0.8, 1.15) + rng.normal(0, 8, 3), 5, 250))
    paint = (r, g, b)
    kind = rng.choice(["car", "car", "car", "estate", "van", "pick-up", "lorry"])
    if kind == "lorry":
        car = Drawing(rng, rng.uniform(0.26, 0.36))
        car.body(paint, 0.06)
        car.glass(0.38, 0.47, 0.2)
        car.roof(paint, 0.3, 0.42)
        grey = int(rng.uniform(60, 240))
        cargo = paint if rng.random() < 0.3 else (grey, grey, min(255, grey + 4))
        box = [(-0.5, -0.5), (0.26, -0.5), (0.26, 0.5), (-0.5, 0.5)]
        car.layer(box, _shaded(cargo, 0.6), 0.7)
        car.layer([(x + 0.005, y * 0.94) for x, y in box], cargo, 1.3)
        return car.finished()
    car = Drawing(rng, rng.uniform(0.38, 0.47))
    car.body(paint, rng.uniform(0.08, 0.2))
    car.lights()
    for side in (-1, 1):  # mirrors
        car.layer([(0.14, side * 0.48), (0.18, side * 0.48), (0.17, side * 0.58), (0.14, side * 0.58)], paint, 0.5)
    if kind == "van":
        car.glass(-0.47, 0.36, 0.2)
        car.roof(paint, -0.47, 0.24)
    elif kind == "pick-up":
        car.layer([(-0.46, -0.38), (-0.08, -0.38), (-0.08, 0.38), (-0.46, 0.38)], _shaded(paint, 0.3), 0.45)
        car.glass(-0.06, 0.26, 0.2)
        car.roof(paint, -0.02, 0.14)
    else:
        rear = -0.46 if kind == "estate" else rng.uniform(-0.42, -0.3)
        car.glass(rear, rng.uniform(0.2, 0.28), rng.uniform(-0.2, 0.4))
        car.roof(paint, rear + 0.1, rng.uniform(0.06, 0.14))
    return car.finished()


def _shaded(colour: Colour, factor: float) -> Colour:
    r, g, b = (int(np.clip(v * factor + (8 if factor > 1 else 0), 0, 255)) for v in colour)
    return r, g, b


def _rounded(back: float, front: float, corner: float, half: float = 0.5) -> list[tuple[float, float]]:
    """The outline of a rectangle from `back` to `front`, `half` wide to each side, its corners cut round by `corner`."""
    bow = np.linspace(0, np.pi / 2, 7)
    quarter = [(front - corner * (1 - np.sin(a)), half - corner * (1 - np.cos(a)) * 1.2) for a in bow]
    ahead = [*quarter, *((x, -y) for x, y in reversed(quarter))]
    behind = [(back + front - x, y) for x, y in reversed(ahead)]
    return [(float(x), float(y)) for x, y in [*ahead, *behind]]
