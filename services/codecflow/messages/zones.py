"""Zones of a stream: polygons over its picture that are hidden, that alone are shown, or that have a name in questions."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from codecflow.errors import ConfigError
from codecflow.text import one_line

from .limits import MAX_CORNERS, MAX_NAME, MAX_ZONES

ZoneUse = Literal["ignore", "only", "place"]
ZONE_USES: tuple[str, ...] = get_args(ZoneUse)

Point = tuple[float, float]

_MIN_AREA = 1e-6
"""Share of the picture: a smaller polygon has no interior."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A polygon over the picture of a stream.

    `use`: `ignore`, nothing of it reaches the model; `only`, the model sees nothing but zones of this use; `place`, it has a
    name and is otherwise treated as the rest of the picture. `polygon`: corners in order, (x, y) as shares of the width and
    height of the picture as shown, from its upper left corner.

    Raises ConfigError on a polygon that has no interior or crosses itself, and on invalid names and corners.
    """

    name: str
    use: ZoneUse
    polygon: tuple[Point, ...]

    def __post_init__(self) -> None:
        what = f"zone {one_line(self.name, 60)!r}"
        if not self.name.strip() or self.name != self.name.strip() or len(self.name) > MAX_NAME:
            raise ConfigError(f"{what}: give it a name of 1 to {MAX_NAME} characters without blanks around it")
        if any("\ud800" <= character <= "\udfff" for character in self.name):
            raise ConfigError(f"{what}: its name is not valid UTF-8")
        if self.use not in ZONE_USES:
            raise ConfigError(f"{what}: use {one_line(str(self.use), 60)!r}; use one of {', '.join(ZONE_USES)}")
        if not 3 <= len(self.polygon) <= MAX_CORNERS:
            raise ConfigError(f"{what}: {len(self.polygon)} corners; a polygon has 3 to {MAX_CORNERS}")
        for x, y in self.polygon:
            if not (0 <= x <= 1 and 0 <= y <= 1):
                raise ConfigError(
                    f"{what}: corner [{x:g}, {y:g}] lies outside the picture; x and y are shares of its width and height"
                )
        if abs(_area(self.polygon)) < _MIN_AREA:
            raise ConfigError(f"{what}: its corners enclose nothing")
        if _crosses_itself(self.polygon):
            raise ConfigError(f"{what}: its edges cross; give the corners in order around it")

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom), as shares of the picture."""
        x, y = zip(*self.polygon, strict=True)
        return min(x), min(y), max(x), max(y)

    @property
    def words(self) -> str:
        """Its position, in words for a model."""
        left, top, right, bottom = self.box
        down, across = _third((top + bottom) / 2, "top", "bottom"), _third((left + right) / 2, "left", "right")
        place = " ".join(word for word in (down, across) if word) or "centre"
        return (
            f"The zone {self.name} is at the {place} of the picture: {_percent(left)} to {_percent(right)} % of its width "
            f"from the left, {_percent(top)} to {_percent(bottom)} % of its height from the top."
        )


def check_zones(what: str, zones: Sequence[Zone]) -> None:
    """Raises ConfigError on more zones than a stream may have, and on two of one name."""
    if len(zones) > MAX_ZONES:
        raise ConfigError(f"{what}: {len(zones)} zones; at most {MAX_ZONES} are allowed")
    names = set()
    for zone in zones:
        if zone.name.casefold() in names:
            raise ConfigError(f"{what}: two zones have the name {one_line(zone.name, 60)!r}")
        names.add(zone.name.casefold())


def zones_digest(zones: Sequence[Zone]) -> int:
    """31 bits that identify what keep masks depend on: equal for zones that hide the same area."""
    hiding = sorted((zone.use, zone.polygon) for zone in zones if zone.use != "place")
    return zlib.crc32(repr(hiding).encode()) & 0x7FFFFFFF if hiding else 0


def zones_in_prompt(prompt: str, zones: Sequence[Zone]) -> list[Zone]:
    """Zones that a question names: "in the zone gate". The longest matching name counts."""
    if not zones:
        return []
    names = sorted(zones, key=lambda zone: -len(zone.name))
    pattern = "|".join(re.escape(zone.name) for zone in names)
    found = re.findall(rf"\bzone\s+[\"'“‘«]?({pattern})(?!\w)", prompt, re.IGNORECASE)
    of = {zone.name.casefold(): zone for zone in zones}
    return list(dict.fromkeys(of[name.casefold()] for name in found if name.casefold() in of))


def _third(middle: float, first: str, last: str) -> str:
    return first if middle < 1 / 3 else last if middle > 2 / 3 else ""


def _percent(share: float) -> int:
    return round(100 * share)


def _area(polygon: Sequence[Point]) -> float:
    """Signed, in shares of the picture."""
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in _edges(polygon)) / 2


def _edges(polygon: Sequence[Point]) -> list[tuple[Point, Point]]:
    return list(zip(polygon, (*polygon[1:], polygon[0]), strict=True))


def _crosses_itself(polygon: Sequence[Point]) -> bool:
    edges = _edges(polygon)
    count = len(edges)
    for one in range(count):
        for other in range(one + 2, count):
            if (one, other) != (0, count - 1) and _cross(*edges[one], *edges[other]):
                return True
    return False


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments a-b and c-d share a point in the interior of both."""
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
