"""Where a scene's things are in each frame: they stand, pass, come, stay a while, go. What befalls them is in stories.py.

All on the CPU and batched: one thing a clip, (n, t) for n clips of t frames. Places are shares of the picture's sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from maker import Maker
from questions import ANIMAL, OTHER, VEHICLE
from torch import Tensor

STAND, VISIT, POP, PASS, LEAVE, COME = range(6)
"""Stands all the time; walks in, stays, walks out; stands from one frame to another, as through a door; passes without
stopping; is there and walks out; walks in and stays."""

SHARES = {
    "lives": torch.tensor([0.20, 0.22, 0.13, 0.25, 0.10, 0.10]),
    "lives-long": torch.tensor([0.04, 0.42, 0.12, 0.28, 0.09, 0.05]),
    "thing": torch.tensor([0.85, 0.0, 0.15, 0.0, 0.0, 0.0]),
}
"""How often each, for people, vehicles and animals, and for things that do not move by themselves."""


PUSHED = 0.2
"""Share of things of no class that move as what lives does: carts, doors, flags, shadows. Not all that moves drives."""

SWAY = 0.0014
"""How far what stands is off its place at most, as a share of the picture's width."""


@dataclass
class Track:
    """`x`, `y`: (n, t) centres. `speed`: (n, t) since the frame before. `turn`: (n, t) angle of lying down, radians.
    `there`: (n, t) bool. `popped`: (n, t) bool, came or went in this frame from one place to nowhere. `squash`: (n, t)
    height as a share of standing. `mirror`: (n, t), -1 where it faces the other way."""

    x: Tensor
    y: Tensor
    speed: Tensor
    turn: Tensor
    there: Tensor
    popped: Tensor
    squash: Tensor
    mirror: Tensor


@dataclass
class Cast:
    """What enters a clip, (n,) each: class, cut-out, half sides as shares of the picture's, and standing height."""

    kind: Tensor
    pick: Tensor
    half_w: Tensor
    half_h: Tensor
    size: Tensor


class Tracks(Maker):
    def grounds(self, n: int) -> Tensor:
        """(n, 2): where the ground of a clip's camera begins, and how high a thing at the picture's lower edge is; the
        latter 0 where things stand anywhere."""
        near = self.uniform(n, low=0.4, high=1.0) * self.chance(n, 0.6)
        return torch.stack([self.uniform(n, low=0.05, high=0.55), near], 1)

    def track(self, t: int, cast: Cast, ground: Tensor) -> Track:
        """A way of its own for each of `cast`, from where it stands on its clip's `ground`."""
        n = len(cast.kind)
        start = torch.stack([self.uniform(n, low=0.04, high=0.96), self.uniform(n, low=0.1, high=1.0)], 1)
        horizon, near = ground.unbind(1)
        foot = horizon + (1.02 - horizon) * cast.size / near.clamp(min=0.1) + self.uniform(n, low=-0.04, high=0.04)
        start[:, 1] = torch.where(near > 0, foot - cast.half_h, start[:, 1])
        start[:, 1] = torch.minimum(start[:, 1], 1.02 - cast.half_h * 0.6)
        lives = (cast.kind <= ANIMAL) | (cast.kind == OTHER) & self.chance(n, PUSHED)
        shares = torch.where(lives[:, None], SHARES["lives-long" if t > 16 else "lives"], SHARES["thing"])
        way = torch.multinomial(shares, 1, generator=self.random)[:, 0]
        pace_in, pace_out = self._paces(cast)
        comes, goes = (way == VISIT) | (way == PASS) | (way == COME), (way == VISIT) | (way == PASS) | (way == LEAVE)
        # A stay: from a moment to minutes, as seen by a window.
        stay = 4 * (max(t, 8) * 0.8 / 4) ** self.uniform(n)
        stay = torch.where(way == PASS, 0.0, stay)
        arrive = torch.where(comes, self.uniform(n) * (t + stay + 6) - stay - 3, -1e3)
        depart = torch.where(
            way == VISIT, arrive + stay, torch.where(way == PASS, arrive, self.uniform(n, low=1.0, high=1.0 + t))
        )
        if t == 1:
            comes, goes = torch.zeros_like(comes), torch.zeros_like(goes)
        steps = torch.arange(-1, t)[None].float()
        before = (steps - arrive[:, None]).clamp(max=0) * comes[:, None]
        after = (steps - depart[:, None]).clamp(min=0) * goes[:, None]
        x = start[:, 0, None] + pace_in[:, 0, None] * before + pace_out[:, 0, None] * after
        y = start[:, 1, None] + pace_in[:, 1, None] * before + pace_out[:, 1, None] * after
        if t > 1:
            x = x + self._about(steps, cast, lives, arrive, torch.where(goes, depart, 1e3))
        begin = torch.where(way == POP, (self.uniform(n) * (t + stay) - stay).ceil(), -9.0)
        end = torch.where(way == POP, (begin + stay).ceil(), t + 9.0)
        there = (steps >= begin[:, None]) & (steps < end[:, None]) | torch.tensor(t == 1)
        there[:, 0] = there[:, 1]  # what came before the clip is not known to have come
        return finish(x, y, torch.zeros(n, t + 1), there)

    def _about(self, steps: Tensor, cast: Cast, lives: Tensor, arrive: Tensor, depart: Tensor) -> Tensor:
        """(n, t + 1): what is added to x by those who walk to and fro while they stay, or sway as they stand."""
        n = len(cast.kind)
        paces = self.chance(n, 0.3) & lives & ((cast.kind != VEHICLE) | self.chance(n, 0.3))
        reach = self.uniform(n, low=0.08, high=0.35)
        pace = (cast.size * self.uniform(n, low=0.1, high=0.35)).clamp(0.025, 0.1)
        since = (
            torch.minimum(steps.clamp(min=arrive.clamp(min=-1)[:, None]), depart[:, None])
            - arrive.clamp(min=-1)[:, None]
        )
        wave = (since.clamp(min=0) * (pace / reach)[:, None] + 1) % 4
        to_and_fro = ((wave - 2).abs() - 1) * (reach * torch.where(self.chance(n, 0.5), 1.0, -1.0))[:, None]
        sway = (
            self.uniform(*to_and_fro.shape, low=-SWAY, high=SWAY)
            * (self.chance(n, 0.5) & (cast.kind != VEHICLE))[:, None]
        )
        return torch.where(paces[:, None], to_and_fro, torch.where(lives[:, None], sway, 0.0))

    def _paces(self, cast: Cast) -> tuple[Tensor, Tensor]:
        """How far each walks a frame, (n, 2) on its way in and out: mostly sideways, some hardly at all."""
        n = len(cast.kind)
        walk = (cast.size * self.uniform(n, low=0.12, high=0.5)).clamp(0.024, 0.15)
        drive = 0.025 * 8.0 ** self.uniform(n)
        pace = torch.where(cast.kind == VEHICLE, drive, walk)
        pace = torch.where(self.chance(n, 0.06), self.uniform(n, low=0.006, high=0.02), pace)
        tilt = torch.where(cast.kind == VEHICLE, 1.2, 0.5) * self.uniform(n, low=-1.0, high=1.0)
        angle = torch.where(self.chance(n, 0.5), 0.0, math.pi) + tilt
        inward = torch.stack([angle.cos(), angle.sin() * 0.6], 1) * pace[:, None]
        turned = torch.where(self.chance(n, 0.35)[:, None], torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 1.0]))
        return inward, inward * turned


def finish(x: Tensor, y: Tensor, turn: Tensor, there: Tensor) -> Track:
    """A track from (n, t + 1) values, of which the first are of the frame before the clip."""
    speed = torch.stack([x.diff(dim=1), y.diff(dim=1)]).norm(dim=0)
    upright = torch.ones_like(speed)
    return Track(
        x[:, 1:], y[:, 1:], speed, turn[:, 1:], there[:, 1:], there[:, 1:] != there[:, :-1], upright, upright.clone()
    )


def replace(track: Track, other: Track, where: Tensor) -> None:
    """Puts the rows of `other` where `where`, (n,) bool, says so."""
    for each in fields(Track):
        setattr(track, each.name, torch.where(where[:, None], getattr(other, each.name), getattr(track, each.name)))


def extents(cast: Cast, turn: Tensor, aspect: Tensor, squash: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(n, t) half width and height, shares of the picture's sides, of what is turned by `turn`."""
    cos, sin = turn.cos().abs(), turn.sin().abs()
    half_w, half_h, aspect = cast.half_w[:, None], cast.half_h[:, None], aspect[:, None]
    if squash is not None:
        half_h = half_h * squash
    return cos * half_w + sin * half_h / aspect, cos * half_h + sin * half_w * aspect
