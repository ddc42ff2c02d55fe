"""Places full of things: rooms, shelves and stalls of dozens of overlapping cut-outs, and car parks and jams of vehicles.

Each scene has clutter of its own, so none is known by heart. Rooms full of things were taken for vehicles by a model that
had seen few; vehicles come and go before the same clutter, so it says nothing either way.
"""

from __future__ import annotations

import torch
from maker import RENDER, SMALLEST_VEHICLE, TOKENS, Maker
from questions import OTHER, PERSON, VEHICLE
from torch import Tensor
from torch.nn import functional

CLUTTERED, PARKED = 0.5, 0.06
"""Shares of places without people and vehicles that are filled with things, and with vehicles."""

LEAST, MOST = 12, 52
"""Things that fill a place."""

WINDOWS = (40, 72, 136, 264, RENDER)
"""Sides of the square parts of a picture that things are pasted into, in pixels."""


class Clutter(Maker):
    def fill(
        self, picture: Tensor, cover: Tensor, seen: Tensor, known: Tensor, complete: Tensor, aspect: Tensor
    ) -> None:
        """Fills some of the places, in place. Shapes as `Backgrounds.backgrounds` returns them."""
        n = len(picture)
        if not (CLUTTERED or PARKED):
            return
        empty = (seen.sum(1) == 0).cpu() & known[:, PERSON].cpu() & known[:, VEHICLE].cpu()
        draw = self.uniform(n)
        lots = torch.nonzero(empty & (draw < PARKED)).flatten()
        rooms = torch.nonzero((seen[:, PERSON] + seen[:, VEHICLE] == 0).cpu() & (draw > 1 - CLUTTERED)).flatten()
        if len(rooms):
            self._strew(picture, rooms, torch.full((len(rooms),), OTHER), aspect)
        if len(lots):
            covered, count = self._strew(picture, lots, torch.full((len(lots),), VEHICLE), aspect)
            rows = self.up(lots)
            cover[rows, VEHICLE] = covered
            seen[rows, VEHICLE] = self.up(count)
            complete[rows, VEHICLE] = False

    def _strew(self, picture: Tensor, rows: Tensor, kind: Tensor, aspect: Tensor) -> tuple[Tensor, Tensor]:
        """Pastes things of one `kind` each, (m,), into the pictures `rows`, from the back to the front. Returns (share of
        each token covered (m, T, T), things that are large enough to be seen (m,))."""
        lib, dev, m, things = self.library, self.device, len(rows), MOST
        vehicles = kind == VEHICLE
        number = LEAST + (self.uniform(m) * (MOST + 1 - LEAST)).long()
        number = torch.where(vehicles, 3 + number // 2, number)
        pick = self._picked(m, things, vehicles)
        size, x, foot = self._places_of_things(m, things, vehicles)
        order = foot.argsort(1)
        size, x, foot = (v.gather(1, order) for v in (size, x, foot))
        half_h = size / 2
        half_w = (half_h * lib.cut_aspect[pick] / aspect[rows, None]).clamp(max=0.45)
        half_h = torch.minimum(half_h, half_w * aspect[rows, None] / lib.cut_aspect[pick])
        y = foot - half_h
        flip = torch.where(self.uniform(m, things) < 0.5, -1.0, 1.0)
        gain = self.uniform(m, things, 1, low=0.5, high=1.3) + (self.uniform(m, things, 3) - 0.5) * 0.3
        gain = gain * self.uniform(m, 1, 1, low=0.6, high=1.15)
        there = (torch.arange(things)[None] < number[:, None]) & (x > 0) & (x < 1) & (y > 0) & (y < 1)
        extent = 2 * torch.maximum(half_w, half_h) * RENDER + 4
        window = torch.bucketize(extent, torch.tensor(WINDOWS[:-1], dtype=torch.float))
        alpha_of = torch.zeros(m, 1, RENDER, RENDER, device=dev)
        for k in range(int(number.max())):
            for size_of, side in enumerate(WINDOWS):
                at = torch.nonzero(there[:, k] & (window[:, k] == size_of)).flatten()
                if not len(at):
                    continue
                left = (x[at, k] * RENDER - side / 2).round().clamp(0, RENDER - side).long()
                top = (y[at, k] * RENDER - side / 2).round().clamp(0, RENDER - side).long()
                steps = torch.arange(side)
                ys, xs = top[:, None] + steps, left[:, None] + steps
                u = ((xs + 0.5) / RENDER - x[at, k, None]) / half_w[at, k, None] * flip[at, k, None]
                v = ((ys + 0.5) / RENDER - y[at, k, None]) / half_h[at, k, None]
                square = len(at), side, side
                grid = torch.stack([u[:, None].expand(square), v[:, :, None].expand(square)], -1).clamp(-4, 4)
                cut = lib.cuts[max(0, 3 - size_of)][self.up(pick[at, k])]
                layer = functional.grid_sample(cut, self.up(grid), align_corners=False)
                colour, alpha = layer[:, :3] * self.up(gain[at, k])[:, :, None, None], layer[:, 3:]
                ys, xs = self.up(ys)[:, :, None], self.up(xs)[:, None]
                part = (self.up(rows[at])[:, None, None], slice(None), ys, xs)
                old = picture[part].permute(0, 3, 1, 2)
                picture[part] = (old * (1 - alpha) + colour).permute(0, 2, 3, 1)
                spot = (self.up(at)[:, None, None], 0, ys, xs)
                alpha_of[spot] = torch.maximum(alpha_of[spot], alpha[:, 0])
        covered = functional.avg_pool2d(alpha_of, RENDER // TOKENS)[:, 0]
        return covered, (there & (2 * half_h >= SMALLEST_VEHICLE)).sum(1).float()

    def _picked(self, m: int, things: int, vehicles: Tensor) -> Tensor:
        """(m, things) cut-outs. Some places have shelves and counters: many of few things, side by side."""
        lib = self.library
        pick = lib.by_class[OTHER][self.integers(len(lib.by_class[OTHER]), m, things)]
        driven = lib.by_class[VEHICLE][self.integers(len(lib.by_class[VEHICLE]), m, things)]
        if len(lib.from_above):
            high = lib.from_above[self.integers(len(lib.from_above), m, things)]
            driven = torch.where(self.chance(m, 0.5)[:, None], high, driven)
        pick = torch.where(vehicles[:, None], driven, pick)
        few = self.integers(things, m, things) % (2 + self.integers(5, m, 1))
        return torch.where((self.chance(m, 0.35) & ~vehicles)[:, None], pick.gather(1, few), pick)

    def _places_of_things(self, m: int, things: int, vehicles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(height, x of the middle, y of the foot), (m, things) each, shares of the picture."""
        horizon = torch.where(vehicles, self.uniform(m, low=0.0, high=0.5), self.uniform(m, low=-0.3, high=0.45))[
            :, None
        ]
        near = torch.where(vehicles, 0.05 * 8 ** self.uniform(m), 0.13 * 5 ** self.uniform(m))[:, None]
        deep = self.uniform(m, things) ** 0.7
        foot = horizon + 0.06 + (1.05 - horizon) * deep
        size = near * (0.15 + 0.85 * deep) * 3 ** (self.uniform(m, things) - 0.5)
        x = self.uniform(m, things, low=-0.05, high=1.05)
        # Shelves: rows of things of one height; a wall's pictures hang anywhere.
        rows = 2 + self.integers(5, m, 1)
        row = self.integers(60, m, things) % rows
        level = (row + 1.0) / rows * self.uniform(m, 1, low=0.7, high=1.05)
        shelf = self.chance(m, 0.35)[:, None]
        foot = torch.where(shelf, level, foot)
        tall = self.uniform(m, 1, low=0.5, high=1.1) / rows * 2.2 ** (self.uniform(m, things) - 0.7)
        size = torch.where(shelf & ~vehicles[:, None], tall, size)
        hangs = (self.uniform(m, things) < 0.2) & ~vehicles[:, None]
        foot = torch.where(hangs, self.uniform(m, things, low=0.05, high=0.9), foot)
        least = torch.where(vehicles, SMALLEST_VEHICLE, 0.03)[:, None]
        return torch.maximum(size, least).clamp(max=0.9), x, foot
