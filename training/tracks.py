"""Where a scene's things are in each frame: they stand, pass, come, stay a while, go, fall, or leave something behind.

All on the CPU and batched: one thing a clip, (n, t) for n clips of t frames. Places are shares of the picture's sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from maker import Maker
from questions import ANIMAL, VEHICLE
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


SWAY = 0.0014
"""How far what stands is off its place at most, as a share of the picture's width."""


@dataclass
class Track:
    """`x`, `y`: (n, t) centres. `speed`: (n, t) since the frame before. `turn`: (n, t) angle of lying down, radians.
    `there`: (n, t) bool. `popped`: (n, t) bool, came or went in this frame from one place to nowhere."""

    x: Tensor
    y: Tensor
    speed: Tensor
    turn: Tensor
    there: Tensor
    popped: Tensor


@dataclass
class Cast:
    """What enters a clip, (n,) each: class, cut-out, half sides as shares of the picture's, and standing height."""

    kind: Tensor
    pick: Tensor
    half_w: Tensor
    half_h: Tensor
    size: Tensor


@dataclass
class Fall:
    """Who falls, (n,) bool; when the fall begins, (n,) frames; (n, t) bool: under way, and over."""

    falls: Tensor
    begin: Tensor
    falling: Tensor
    lying: Tensor


@dataclass
class Leaving:
    """Who puts something down, (n,) bool; when it is put down, when its owner begins to leave it, (n,) frames;
    who stays with it after all, (n,) bool."""

    leaves: Tensor
    put: Tensor
    off: Tensor
    stays: Tensor


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
        lives = cast.kind <= ANIMAL
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

    def fall(self, t: int, falls: Tensor, cast: Cast, track: Track, aspect: Tensor) -> Fall:
        """Lets those who `falls` stand, go down within two frames at a random time, and lie; changes `track`."""
        n = len(falls)
        early = self.chance(n, 0.5) if t == 1 else self.chance(n, 0.15)
        begin = (self.uniform(n, low=0.05, high=0.85) * t).floor().clamp(min=1)
        begin = torch.where(early, -4.0, begin)
        if t == 4:
            begin = torch.where(early, begin, self.integers(3, n).float() + 1)
        steps = torch.arange(-1, t)[None]
        share = ((steps - begin[:, None] + 1) / 2).clamp(0, 1)
        side = torch.where(self.chance(n, 0.5), 1.0, -1.0) * self.uniform(n, low=0.75, high=1.0)
        turn = share * (math.pi / 2) * side[:, None]
        x = self.uniform(n, low=0.2, high=0.8)[:, None].expand(n, t + 1)
        foot = torch.maximum(self.uniform(n, low=0.5, high=0.98), 2 * cast.half_h * 0.9)
        _, half = extents(cast, turn, aspect)
        fallen = finish(x, foot[:, None] - half, turn, torch.ones(n, t + 1, dtype=torch.bool))
        replace(track, fallen, falls)
        falling = falls[:, None] & ((steps == begin[:, None]) | (steps == begin[:, None] + 1))[:, :]
        lying = falls[:, None] & (steps > begin[:, None])
        falling, lying = falling[:, 1:], lying[:, 1:]
        track.speed = torch.where(falling, track.speed.clamp(min=0.05), track.speed)
        return Fall(falls, begin, falling, lying)

    def leaving(self, t: int, leaves: Tensor, cast: Cast, track: Track) -> Leaving:
        """Lets those who `leaves` come or stand, put something down and walk off; changes `track`, the owner's."""
        n = len(leaves)
        steps = torch.arange(-1, t)[None].float()
        walks_in = self.chance(n, 0.5)
        arrive = torch.where(walks_in, self.uniform(n, low=0.0, high=0.3 * t), -1e3).floor()
        put = arrive.clamp(min=0) + 1 + self.integers(3, n)
        off = (put + 2 + self.uniform(n) ** 3 * (0.85 * t - put - 2).clamp(min=0)).floor()
        stays = self.chance(n, 0.25)
        place = self.uniform(n, low=0.3, high=0.7)
        inward = torch.where(self.chance(n, 0.5), 1.0, -1.0) * self.uniform(n, low=0.03, high=0.12)
        # The owner walks on, or turns back; most walk out of the picture, some stop further off.
        out = torch.where(self.chance(n, 0.5), 1.0, -1.0) * self.uniform(n, low=0.04, high=0.16)
        far = torch.where(self.chance(n, 0.3), self.uniform(n, low=0.28, high=0.5), 9.0)
        x = place[:, None] + inward[:, None] * (steps - arrive[:, None]).clamp(max=0) * walks_in[:, None]
        gone = (out.abs()[:, None] * (steps - off[:, None]).clamp(min=0)).minimum(far[:, None])
        x = x + gone * out.sign()[:, None] * ~stays[:, None]
        foot = torch.maximum(self.uniform(n, low=0.5, high=0.95), 2 * cast.half_h * 0.95)
        y = (foot - cast.half_h)[:, None].expand(n, t + 1)
        replace(track, finish(x, y, torch.zeros(n, t + 1), torch.ones(n, t + 1, dtype=torch.bool)), leaves)
        return Leaving(leaves, put, off, stays)

    def put_down(self, leaving: Leaving, owner: Track, owner_cast: Cast, cast: Cast, track: Track) -> None:
        """Places what is put down beside its owner's feet, from then on; changes `track`, the thing's."""
        n, t = track.x.shape
        rows, put = torch.arange(n), leaving.put.long().clamp(max=t - 1)
        foot = owner.y[rows, put] + owner_cast.half_h - cast.half_h
        side = torch.where(self.chance(n, 0.5), 1.0, -1.0)
        beside = owner.x[rows, put] + (owner_cast.half_w * 0.8 + cast.half_w) * side
        there = torch.arange(-1, t)[None] >= leaving.put[:, None]
        still = finish(beside[:, None].expand(n, t + 1), foot[:, None].expand(n, t + 1), torch.zeros(n, t + 1), there)
        replace(track, still, leaving.leaves)


def finish(x: Tensor, y: Tensor, turn: Tensor, there: Tensor) -> Track:
    """A track from (n, t + 1) values, of which the first are of the frame before the clip."""
    speed = torch.stack([x.diff(dim=1), y.diff(dim=1)]).norm(dim=0)
    return Track(x[:, 1:], y[:, 1:], speed, turn[:, 1:], there[:, 1:], there[:, 1:] != there[:, :-1])


def replace(track: Track, other: Track, where: Tensor) -> None:
    """Puts the rows of `other` where `where`, (n,) bool, says so."""
    for name in ("x", "y", "speed", "turn", "there", "popped"):
        setattr(track, name, torch.where(where[:, None], getattr(other, name), getattr(track, name)))


def extents(cast: Cast, turn: Tensor, aspect: Tensor) -> tuple[Tensor, Tensor]:
    """(n, t) half width and height, shares of the picture's sides, of what is turned by `turn`."""
    cos, sin = turn.cos().abs(), turn.sin().abs()
    half_w, half_h, aspect = cast.half_w[:, None], cast.half_h[:, None], aspect[:, None]
    return cos * half_w + sin * half_h / aspect, cos * half_h + sin * half_w * aspect
