"""Scenes of a fixed camera, made on the GPU: cut-outs that come, go, stay, fall and leave things behind, on real pictures.

Everything is batched torch: the CPU only draws random numbers. A batch is `clips` scenes of `frames` frames, all at
`SIDE` x `SIDE`, the model's square, with exact labels from how it was made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from backgrounds import Backgrounds
from camera import Camera, replenish
from maker import SIDE, TOKENS
from questions import ANIMAL, BAG, OTHER, PERSON, VEHICLE
from torch import Tensor
from torch.nn import functional


@dataclass
class Scenes:
    """`frames`: (clips, frames, 3, SIDE, SIDE) uint8. `keep`: (clips, frames, TOKENS^2) bool, replenish's masks.
    `cover`: (clips, frames, 4, TOKENS, TOKENS) float share of each token covered by a class, -1 unknown.
    `seen`, `known`: (clips, frames, 4) instances in view, and whether that is certain. `slivers`: (clips, frames, 4)
    bool, something of the class is barely in view. `moving`: (clips, frames) objects on the move; `mover`: (clips, 2)
    where the last of them is at the end, `person_at` likewise a person. `fall`, `left`: (clips,) int8, whether someone fell
    and lies, whether a thing was left behind: 1, 0, or -1 for "better not asked". `complete`: (clips, 4) bool, nothing of
    the class in the background is unlabelled.
    """

    frames: Tensor
    keep: Tensor
    cover: Tensor
    seen: Tensor
    known: Tensor
    slivers: Tensor
    moving: Tensor
    mover: Tensor
    person_at: Tensor
    fall: Tensor
    left: Tensor
    complete: Tensor


class Studio(Backgrounds, Camera):
    """Makes scenes."""

    def make(self, clips: int, frames: int, anchor_every: int = 16) -> Scenes:  # noqa: PLR0915 - a story, in its order
        """`clips` new scenes of `frames` frames, masked by replenish with an anchor every `anchor_every` frames."""
        dev, n, t = self.device, clips, frames
        ground, cover, base_seen, base_known, aspect = self.backgrounds(n)
        drawn = self.up(torch.nonzero(self.uniform(n) < 0.15).flatten())
        if len(drawn):
            ground[drawn] = self.plain(len(drawn))
            cover[drawn], base_seen[drawn], base_known[drawn] = 0.0, 0.0, True
        scene = ground[:, None].expand(n, t, 3, SIDE, SIDE).clone()
        cover = cover[:, None].expand(n, t, 4, TOKENS, TOKENS).clone()
        slivers = torch.zeros(n, t, 4, dtype=torch.bool, device=dev)
        seen = base_seen[:, None].expand(n, t, 4).clone()
        moving = torch.zeros(n, t, device=dev)
        mover, person_at = torch.full((n, 2), -1.0, device=dev), torch.full((n, 2), -1.0, device=dev)
        fall, left = torch.full((n,), -1, dtype=torch.int8), torch.full((n,), -1, dtype=torch.int8)
        # How many things: often none, so that "no" is as common as "yes".
        slots = 5
        number = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 4, 5])[self.integers(10, n)]
        story = self.uniform(n)
        falling = (story < 0.12) & (t >= 4)
        leaving = (story > 0.88) & (t >= 8)
        number[falling] = number[falling].clamp(min=1)
        number[leaving] = number[leaving].clamp(min=2)
        previous: dict[str, Tensor] = {}
        steps = torch.arange(t)[None]
        for slot in range(slots):
            active = number > slot
            kind, pick, half_w, half_h, size = self._cast(slot, falling, leaving, aspect, previous)
            start, speed, begin, end = self._tracks(n, t, half_w, half_h)
            turn = torch.zeros(n, t)
            if slot == 0:
                start[leaving, 0], speed[leaving] = self.uniform(n, low=0.25, high=0.75)[leaving], 0.0
                begin[leaving], end[leaving] = 0.0, float(t)
                start[falling] = start[falling].clamp(0.2, 0.8)
                speed[falling], begin[falling], end[falling] = 0.0, -1.0, t + 1.0
                angle, fell, down = self._fall(n, t)
                turn = torch.where((falling & fell)[:, None], angle, turn)
                fall = torch.where(falling & ~fell, torch.zeros_like(fall), fall)
                fall = torch.where(falling & fell & down, torch.ones_like(fall), fall)
                previous = {"size": size}
            at = steps - begin[:, None].clamp(min=0)
            x = start[:, 0, None] + speed[:, 0, None] * at
            y = start[:, 1, None] + speed[:, 1, None] * at
            there = active[:, None] & (steps >= begin[:, None]) & (steps < end[:, None])
            if slot == 0:  # a leaver walks off after a while, a faller's middle sinks to where the feet were
                off, walk, stays = self._walk_off(n, t)
                x = torch.where((leaving & ~stays)[:, None], x + walk, x)
                y = y + half_h[:, None] * 0.8 * turn.abs() / (math.pi / 2)
                previous |= {"x": x, "y": y, "off": off, "stays": stays, "half_h": half_h, "half_w": half_w}
            if slot == 1 and bool(leaving.any()):
                beside, foot, gone = self._put_down(previous, half_w, half_h)
                x = torch.where(leaving[:, None], beside[:, None], x)
                y = torch.where(leaving[:, None], foot[:, None], y)
                there = torch.where(leaving[:, None], steps >= 2, there)
                left = torch.where(leaving & ~previous["stays"] & gone, torch.ones_like(left), left)
                left = torch.where(leaving & previous["stays"], torch.zeros_like(left), left)
            area = self._paste(scene, cover, slivers, pick, kind, x, y, half_w, half_h, turn, there)
            inside = self.up(area > 0.45)
            kinds, there_d = self.up(kind), self.up(there)
            for c in range(4):
                seen[:, :, c] += (inside & there_d & (kinds == c)[:, None]).float()
                slivers[:, :, c] |= ~inside & there_d & self.up(area > 0.0) & (kinds == c)[:, None]
            rate = speed.norm(dim=1) + torch.zeros(n)
            walks = there & (rate > 0.006)[:, None]
            if slot == 0:
                walks |= (leaving & ~previous["stays"])[:, None] & (steps > previous["off"][:, None]) & there
            walks_d = self.up(walks & (area > 0.05)).float()
            moving += walks_d
            last = self.up(torch.stack([x[:, -1], y[:, -1]], 1))
            mover = torch.where((walks_d[:, -1] > 0)[:, None], last, mover)
            person_at = torch.where((inside[:, -1] & there_d[:, -1] & (kinds == PERSON))[:, None], last, person_at)
        known = base_known[:, None].expand(n, t, 4) | (seen > 0)
        fall, left, still = self.up(fall), self.up(left), self.up(number == 0)
        nobody = (base_seen[:, PERSON] == 0) & base_known[:, PERSON] & ~self.up(falling)
        fall = torch.where((fall < 0) & nobody, torch.zeros_like(fall), fall)
        left = torch.where((left < 0) & still & nobody, torch.zeros_like(left), left)
        shown = self.film(scene)
        keep = replenish(shown, anchor_every, int(self.integers(anchor_every, 1)))
        # What is hidden behind other things is hardly in view.
        hidden = (seen > 0) & (cover.flatten(3).amax(3) < 0.1)
        slivers |= hidden
        seen = torch.where(hidden, 0.0, seen)
        return Scenes(shown, keep, cover, seen, known, slivers, moving, mover, person_at, fall, left, base_known)

    def _cast(
        self, slot: int, falling: Tensor, leaving: Tensor, aspect: Tensor, previous: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What enters in this slot, (n,) each: class, cut-out, half width, half height (shares of the picture), height."""
        lib, n = self.library, len(falling)
        kinds = torch.tensor([PERSON] * 8 + [VEHICLE] * 5 + [ANIMAL] * 2 + [BAG] * 2 + [OTHER] * 6)
        kind = kinds[self.integers(len(kinds), n)]
        if slot == 0:
            kind[falling | leaving] = PERSON
        if slot == 1:
            kind[leaving] = BAG
        pick = torch.stack([lib.by_class[int(c)][self.integers(len(lib.by_class[int(c)]), 1)][0] for c in kind])
        small = self.uniform(n) < 0.6
        low, high = torch.where(small, 0.04, 0.2), torch.where(small, 0.25, 0.95)
        size = low * (high / low) ** self.uniform(n)
        most = torch.where(kind == BAG, 0.25, torch.where(kind == VEHICLE, 0.7, 1.0))
        size = torch.minimum(size, most)
        if slot == 1 and previous:
            size[leaving] = previous["size"][leaving] * self.uniform(n, low=0.25, high=0.45)[leaving]
        stretch = 1 + (self.uniform(n) - 0.5) * 0.2
        half_h, half_w = size / 2, size * lib.cut_aspect[pick] * stretch / aspect / 2
        limit = (0.6 / half_w.clamp(min=1e-3)).clamp(max=1)
        return kind, pick, half_w * limit, half_h * limit, size

    def _fall(self, n: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """(angle (n, t) of a fall that takes two frames, whether one falls at all (n,), whether it lies at the end (n,))."""
        when = (self.uniform(n) * t * 0.9 + 0.5).floor()
        fell = self.uniform(n) < 0.6
        angle = ((torch.arange(t)[None] - when[:, None] + 1) / 2).clamp(0, 1) * (math.pi / 2)
        angle = angle * (1 - 0.3 * self.uniform(n, 1)) * torch.where(self.uniform(n, 1) < 0.5, 1.0, -1.0)
        return angle, fell, when <= t - 2

    def _walk_off(self, n: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """(frame of leaving (n,), way gone since (n, t), who stays after all (n,)) of those who leave something behind."""
        off = (self.uniform(n) * t * 0.5 + t * 0.25).floor()
        direction = torch.where(self.uniform(n) < 0.5, -1.0, 1.0) * self.uniform(n, low=0.08, high=0.25)
        stays = self.uniform(n) < 0.4
        return off, direction[:, None] * (torch.arange(t)[None] - off[:, None]).clamp(min=0), stays

    def _put_down(self, owner: dict[str, Tensor], half_w: Tensor, half_h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x, y of what its owner puts down (n,), whether the owner is far from it at the end, and it is in view (n,))."""
        foot = owner["y"][:, 0] + owner["half_h"] - half_h
        side = torch.where(self.uniform(len(foot)) < 0.5, -1.0, 1.0)
        beside = owner["x"][:, 0] + (owner["half_w"] + half_w) * side
        inside = (beside > 0.05) & (beside < 0.95) & (foot < 0.95)
        return beside, foot, inside & ((owner["x"][:, -1] - beside).abs() > 0.25)

    def _tracks(self, n: int, t: int, half_w: Tensor, half_h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(where (n, 2), speed (n, 2) a frame, first frame, frame after the last) of things that stand, pass, come or go."""
        start = torch.stack([self.uniform(n, low=0.02, high=0.98), self.uniform(n, low=0.1, high=1.0)], 1)
        start[:, 1] = start[:, 1].clamp(max=1.02 - half_h * 0.6)
        kind = self.integers(6, n)
        angle = self.uniform(n, high=2 * math.pi)
        pace = 0.01 * 12.0 ** self.uniform(n) * torch.where(self.uniform(n) < 0.7, 1.0, 0.3)
        speed = torch.stack([angle.cos() * pace, angle.sin() * pace * 0.5], 1)
        begin, end = torch.full((n,), -1.0), torch.full((n,), t + 1.0)
        if t > 1:
            one, two = self.uniform(n) * t, self.uniform(n) * t
            comes, goes, passes = kind == 1, kind == 2, kind == 3
            begin[comes] = one[comes].ceil()
            end[goes] = one[goes].ceil()
            begin[passes], end[passes] = (
                torch.minimum(one, two)[passes].floor(),
                torch.maximum(one, two)[passes].ceil() + 1,
            )
            speed[(kind == 0) | (kind == 1) & (self.uniform(n) < 0.5)] = 0.0
            # Those that walk through the picture are at `start` at a random time.
            through = kind == 4
            start[through] -= speed[through] * (self.uniform(n) * t)[through, None]
        else:
            speed[:] = 0.0
        return start, speed, begin, end

    def _paste(
        self,
        scene: Tensor,
        cover: Tensor,
        slivers: Tensor,
        pick: Tensor,
        kind: Tensor,
        x: Tensor,
        y: Tensor,
        half_w: Tensor,
        half_h: Tensor,
        turn: Tensor,
        there: Tensor,
    ) -> Tensor:
        """Pastes one cut-out a clip onto `scene` where it is `there`. Returns (n, t) the share of it inside the picture."""
        lib, dev = self.library, self.device
        n = len(x)
        left, right = (x - half_w[:, None]).clamp(0, 1), (x + half_w[:, None]).clamp(0, 1)
        top, bottom = (y - half_h[:, None]).clamp(0, 1), (y + half_h[:, None]).clamp(0, 1)
        area = (right - left) * (bottom - top) / (4 * half_w * half_h)[:, None].clamp(min=1e-6) * there
        pixels = 2 * half_h * SIDE
        level = torch.where(pixels > 112, 0, torch.where(pixels > 56, 1, torch.where(pixels > 28, 2, 3)))
        flip = torch.where(self.uniform(n) < 0.5, -1.0, 1.0)
        gain = self.up(self.uniform(n, 1, low=0.65, high=1.35) + (self.uniform(n, 3) - 0.5) * 0.16)
        axis = (torch.arange(SIDE, device=dev) + 0.5) / SIDE
        for which in range(4):
            clip, frame = torch.nonzero((level == which)[:, None] & (area > 0), as_tuple=True)
            if not len(clip):
                continue
            cx, cy, hw, hh = x[clip, frame], y[clip, frame], half_w[clip], half_h[clip]
            angle = turn[clip, frame]
            cos, sin = (self.up(v)[:, None, None] for v in (angle.cos(), angle.sin()))
            dx = ((axis[None] - self.up(cx)[:, None]) / self.up(hw)[:, None])[:, None, :]
            dy = ((axis[None] - self.up(cy)[:, None]) / self.up(hh)[:, None])[:, :, None]
            own = self.up(lib.cut_aspect[pick[clip]])[:, None, None]
            u = cos * dx + sin * dy / own
            v = -sin * dx * own + cos * dy
            grid = torch.stack([u * self.up(flip[clip])[:, None, None], v.expand_as(u)], -1).clamp(-4, 4)
            cut = lib.cuts[which][self.up(pick[clip])]
            cut = torch.cat([cut[:, :3] * gain[self.up(clip)][:, :, None, None], cut[:, 3:]], 1)
            layer = functional.grid_sample(cut, grid, align_corners=False)
            alpha = layer[:, 3:]
            clip_d, frame_d = self.up(clip), self.up(frame)
            scene[clip_d, frame_d] = scene[clip_d, frame_d] * (1 - alpha) + layer[:, :3]
            share = functional.avg_pool2d(alpha.float(), SIDE // TOKENS)[:, 0]
            kinds = self.up(kind[clip])
            before = cover[clip_d, frame_d]  # (m, 4, T, T)
            hidden = torch.where(
                before >= 0, before * (1 - share[:, None]), torch.where(share[:, None] > 0.7, 0.0, before)
            )
            mine = torch.arange(4, device=dev)[None] == kinds[:, None]
            cover[clip_d, frame_d] = torch.where(mine[:, :, None, None], torch.maximum(hidden, share[:, None]), hidden)
        return area
