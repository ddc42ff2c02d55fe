"""What befalls a scene's people beyond coming and going: they fall, fight, crouch, or leave something behind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from questions import PERSON
from torch import Tensor
from tracks import Cast, Track, Tracks, extents, finish, replace


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


@dataclass
class Fight:
    """Of clips that have two people close to each other, (n,) bool `pairs`. `middle`, `gap`: (n, t + 1) where they are and
    how far from it; `foot`: (n,). (n, t) bool: `fighting`, and `down`, one of them has been knocked down."""

    pairs: Tensor
    middle: Tensor
    gap: Tensor
    foot: Tensor
    fighting: Tensor
    down: Tensor


NEVER = 1e6
"""Frames until a fight that does not happen."""

POSED = 0.05
"""Speed, in shares of the picture a frame, that a change of pose counts as: it is seen to move."""


def _stirs(track: Track, when: Tensor) -> None:
    """Lets them count as moving `when`, (n, t) bool, they change their pose."""
    track.speed = torch.where(when, track.speed.clamp(min=POSED), track.speed)


class Stories(Tracks):
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
        falling = falls[:, None] & ((steps == begin[:, None]) | (steps == begin[:, None] + 1))
        lying = falls[:, None] & (steps > begin[:, None])
        falling, lying = falling[:, 1:], lying[:, 1:]
        _stirs(track, falling)
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

    def fight(self, t: int, pairs: Tensor, cast: Cast) -> Fight:
        """What two people of the clips `pairs` do: three in five fight for a while. Before and after it, or all the time,
        they stand or walk together. `cast`: the first of them."""
        n = len(pairs)
        steps = torch.arange(-1, t)[None].float()
        ever = self.chance(n, 0.6)
        begin = (self.uniform(n, low=-0.5, high=0.8) * t).floor()
        begin = torch.where(ever, torch.where(self.chance(n, 0.2) | torch.tensor(t <= 4), -9.0, begin), NEVER)
        end = begin.clamp(max=t) + 4 + (self.uniform(n) * t).floor()
        meets, parts = self.chance(n, 0.5), self.chance(n, 0.5)
        pace = (cast.size * self.uniform(n, low=0.1, high=0.3)).clamp(0.015, 0.1)
        near = cast.half_w * self.uniform(n, low=0.5, high=1.0)
        apart = (begin[:, None] - steps).clamp(min=0) * (meets & ever)[:, None]
        apart = apart + (steps - end[:, None]).clamp(min=0) * (parts & ever)[:, None]
        walk = torch.where(self.chance(n, 0.5), 1.0, -1.0) * pace * (self.chance(n, 0.5) & ~ever)
        middle = self.uniform(n, low=0.2, high=0.8)[:, None] + walk[:, None] * (
            steps - self.uniform(n, high=t)[:, None]
        )
        fighting = (pairs[:, None] & (steps >= begin[:, None]) & (steps < end[:, None]))[:, 1:]
        # Who fights does not stay on one spot.
        drift = (self.uniform(n, t + 1) - 0.5) * 0.5 * cast.half_w[:, None]
        middle = middle + torch.cumsum(torch.cat([drift[:, :1] * 0, drift[:, 1:] * fighting], 1), 1)
        foot = torch.maximum(self.uniform(n, low=0.5, high=0.95), 2 * cast.half_h * 0.95)
        knocked = begin + (end - begin) * self.uniform(n, low=0.3, high=0.8)
        down = (pairs & ever & self.chance(n, 0.2))[:, None] & (steps[:, 1:] >= knocked[:, None])
        return Fight(pairs, middle, near[:, None] + apart * pace[:, None], foot, fighting, down)

    def spar(self, fight: Fight, side: int, cast: Cast, track: Track, aspect: Tensor) -> None:
        """Puts one of the two where they are, on `side` -1 or 1 of the other; changes `track`."""
        n, t = track.x.shape
        blow = torch.cat([torch.zeros(n, 1, dtype=torch.bool), fight.fighting], 1)
        x = fight.middle + side * fight.gap + self._jerk(n, t + 1, 0.5) * cast.half_w[:, None] * blow
        turn, squash = self._jerk(n, t + 1, 0.5) * blow, 1 - self.uniform(n, t + 1, high=0.28) * blow
        if side > 0:
            down = torch.cat([torch.zeros(n, 1, dtype=torch.bool), fight.down], 1)
            turn = torch.where(down, math.pi / 2 * self.uniform(n, 1, low=0.75, high=1.0), turn)
        _, half = extents(cast, turn, aspect, squash)
        hop = self._jerk(n, t + 1, 0.06) * cast.half_h[:, None] * blow
        still = finish(x, fight.foot[:, None] - half + hop, turn, torch.ones(n, t + 1, dtype=torch.bool))
        still.squash = squash[:, 1:]
        still.mirror = torch.where(blow & (self.uniform(n, t + 1) < 0.35), -1.0, 1.0)[:, 1:]
        _stirs(still, fight.fighting)
        replace(track, still, fight.pairs)

    def poses(self, cast: Cast, track: Track, free: Tensor) -> None:
        """Lets some people of the clips `free` crouch, sit or bend for a while, which is no fall, and others move about on
        one spot, which is no fight; changes `track`."""
        n, t = track.x.shape
        steps = torch.arange(t)[None].float()
        free = free & (cast.kind == PERSON) & torch.tensor(t > 1)
        begin = (self.uniform(n, low=-0.3, high=0.9) * t).floor()
        end = begin + 2 + (self.uniform(n) * t).floor()
        # Some sit all the time: who is low from the beginning has not fallen.
        sits = self.chance(n, 0.5)
        begin, end = torch.where(sits, -9.0, begin)[:, None], torch.where(sits, t + 9.0, end)[:, None]
        kind = self.uniform(n)
        low, restless = free & (kind < 0.25), free & (kind > 0.94)
        # Down within two frames, and up again.
        share = ((steps - begin + 1) / 2).clamp(0, 1) * ((end - steps + 1) / 2).clamp(0, 1)
        crouch = 1 - share * self.uniform(n, 1, low=0.2, high=0.55)
        bend = share * self.uniform(n, 1, low=-0.8, high=0.8) * self.chance(n, 0.5)[:, None]
        about = restless[:, None] & (steps >= begin) & (steps < end)
        squash = torch.where(low[:, None], crouch, torch.where(about, 1 - self.uniform(n, t, high=0.25), 1.0))
        turn = torch.where(low[:, None], bend, torch.where(about, self._jerk(n, t, 0.4), 0.0))
        posed = torch.zeros(n, t, dtype=torch.bool)
        posed[:, 1:] = ((squash.diff(dim=1).abs() > 0.05) | (turn.diff(dim=1).abs() > 0.1)) & track.there[:, 1:]
        track.y = track.y + cast.half_h[:, None] * (1 - squash)
        track.turn, track.squash = track.turn + turn, track.squash * squash
        track.mirror = torch.where(about & (self.uniform(n, t) < 0.35), -1.0, track.mirror)
        _stirs(track, posed)

    def _jerk(self, n: int, t: int, most: float) -> Tensor:
        """(n, t): somewhere else in every frame, up to `most` to either side."""
        return self.uniform(n, t, low=-most, high=most)
