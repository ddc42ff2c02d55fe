"""Rooms that nobody is in, drawn: a floor and walls, cloth in checks and stripes, a bright window, and furniture close up.

Photographs with a licence show few rooms, and whatever large and patterned thing none of them shows is taken for a vehicle.
"""

from __future__ import annotations

import torch
from backgrounds import Backgrounds
from maker import RENDER
from questions import OTHER
from torch import Tensor
from torch.nn import functional

CLOTHS, FURNITURE, ON_WALLS = 4, 8, 3
"""How many pieces of cloth and how many things a room has at most, and how many of these hang on its walls."""


class Rooms(Backgrounds):
    def rooms(self, n: int) -> tuple[Tensor, Tensor]:
        """(pictures (n, 3, S, S) 0 to 1, aspect (n,) of the cameras that they are drawn for)."""
        aspect = torch.tensor([16 / 9, 16 / 9, 4 / 3, 1.0])[self.integers(4, n)]
        x, y = self._places()
        floor = self.uniform(n, low=0.35, high=0.85)
        picture = self._walls(n, x, y, floor)
        number = self.integers(CLOTHS, n) + 1
        for slot in range(CLOTHS):
            hung = self.chance(n, 0.5)
            picture = self._cloth(picture, x, y, floor, hung, number > slot)
        number = self.integers(FURNITURE - 1, n) + 2
        order = self.uniform(n, FURNITURE).sort(1).values  # who stands nearer hides who stands behind
        for slot in range(FURNITURE):
            picture = self._thing(
                picture, x, y, floor, order[:, slot], slot < ON_WALLS, number > (slot + ON_WALLS) % FURNITURE, aspect
            )
        return picture.clamp(0, 1), aspect

    def _walls(self, n: int, x: Tensor, y: Tensor, floor: Tensor) -> Tensor:
        """Two walls that meet somewhere, the floor, light from one side."""
        one = (n, 1, 1, 1)
        wall, ground = (self._tone(n, low, high) for low, high in ((0.3, 0.95), (0.15, 0.8)))
        corner, slope = self.uniform(*one, low=-0.3, high=1.3), self.uniform(*one, low=-0.5, high=0.5)
        line = self.up(floor.view(one)) + (x - self.up(corner)).abs() * self.up(slope)
        shade = torch.where(x < self.up(corner), self.up(self.uniform(*one, low=0.6, high=1.0)), 1.0)
        picture = torch.where(y < line, wall * shade, ground)
        fall_off = self.up(self.uniform(*one, low=-0.4, high=0.4)) * (x - 0.5)
        texture = functional.interpolate(self.gaussian(n, 1, 24, 24), (RENDER, RENDER), mode="bilinear")
        return picture * (1 + fall_off) + texture * self.up(self.uniform(*one, high=0.04))

    def _cloth(self, picture: Tensor, x: Tensor, y: Tensor, floor: Tensor, hung: Tensor, there: Tensor) -> Tensor:
        """`picture` with a curtain, a window, a cover or a rug: an oblong on the wall, where `hung`, or a trapezium on the
        floor, plain, striped or in checks, with folds."""
        n, one = len(picture), (len(picture), 1, 1, 1)
        high = torch.where(hung, self.uniform(n, low=0.15, high=0.6), self.uniform(n, low=0.08, high=0.4))
        top = torch.where(hung, floor - high - self.uniform(n, low=-0.1, high=0.3), floor + self.uniform(n, high=0.3))
        middle, half = self.uniform(n), self.uniform(n, low=0.06, high=0.45)
        widen = torch.where(hung, 0.0, self.uniform(n, low=0.0, high=0.8))
        down = (y - self.up(top.view(one))) / self.up(high.view(one))
        across = (x - self.up(middle.view(one))) / self.up(half.view(one)) / (1 + self.up(widen.view(one)) * down)
        inside = (down > 0) & (down < 1) & (across.abs() < 1) & self.up(there.view(one))
        first, second = self._tone(n, 0.1, 1.0, 0.8), self._tone(n, 0.1, 1.0, 0.8)
        rows, columns = (self.up(self.integers(9, *one) + 1) for _ in range(2))
        kind = self.up(self.integers(4, *one))  # plain, columns, rows, checks
        odd_column = torch.where(kind % 2 == 1, (across * columns).floor() % 2, 0.0)
        odd_row = torch.where(kind >= 2, (down * rows).floor() % 2, 0.0)
        cloth = first + (second - first) * (odd_column + odd_row) / (1 + (kind == 3))
        folds = 1 + self.up(self.uniform(*one, high=0.3)) * (across * self.up(self.uniform(*one, low=6, high=50))).sin()
        lit = self.up((self.chance(n, 0.4) & hung).view(one))  # daylight behind it
        return torch.where(inside, torch.where(lit, 1.2 - 0.2 * cloth, cloth * folds), picture)

    def _thing(
        self,
        picture: Tensor,
        x: Tensor,
        y: Tensor,
        floor: Tensor,
        near: Tensor,
        wall: bool,
        there: Tensor,
        aspect: Tensor,
    ) -> Tensor:
        """`picture` with something that is none of what is asked about, large where it stands `near` (0 to 1) the camera, or
        on a `wall`, `there` (n,)."""
        lib, n = self.library, len(picture)
        pick = lib.by_class[OTHER][self.integers(len(lib.by_class[OTHER]), n)]
        size = self.uniform(n, low=0.1, high=0.3) if wall else 0.15 + 0.6 * near * self.uniform(n, low=0.4, high=1.0)
        half_h = size / 2
        half_w = (half_h * lib.cut_aspect[pick] / aspect).clamp(max=0.45)
        foot = floor - self.uniform(n, low=0.02, high=0.5) if wall else floor + (1.05 - floor) * near
        dx = (x - self.up(self.uniform(n).view(n, 1, 1, 1))) / self.up(half_w.view(n, 1, 1, 1))
        dy = (y - self.up((foot - half_h).view(n, 1, 1, 1))) / self.up(half_h.view(n, 1, 1, 1))
        flip = self.up(torch.where(self.chance(n, 0.5), -1.0, 1.0).view(n, 1, 1, 1))
        grid = torch.stack(torch.broadcast_tensors(dx * flip, dy), -1)[:, 0].clamp(-4, 4)
        gain = self.up(self.uniform(n, 1, 1, 1, low=0.6, high=1.3) * self.uniform(n, 3, 1, 1, low=0.9, high=1.1))
        large = size > 0.25
        for which, mine in ((0, large), (1, ~large)):
            rows = self.up(torch.nonzero(mine & there).flatten())
            if len(rows):
                layer = functional.grid_sample(lib.cuts[which][self.up(pick)[rows]], grid[rows], align_corners=False)
                picture[rows] = picture[rows] * (1 - layer[:, 3:]) + layer[:, :3] * gain[rows]
        return picture

    def _tone(self, n: int, low: float, high: float, colour: float = 0.25) -> Tensor:
        """(n, 3, 1, 1) colours of a brightness from `low` to `high`, off grey by `colour` at most."""
        base, off = self.uniform(n, 1, 1, 1, low=low, high=high), self.uniform(n, 3, 1, 1, low=-0.5, high=0.5)
        return self.up((base + off * colour * self.uniform(n, 1, 1, 1)).clamp(0.02, 1.0))
