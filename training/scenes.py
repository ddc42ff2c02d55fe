"""Scenes of a fixed camera, made on the GPU: cut-outs that come, go, stay, fall and leave things behind, on real pictures.

Everything is batched torch: the CPU only draws random numbers. A batch is `clips` scenes of `frames` frames, all at
RENDER x RENDER, with exact labels of every frame from how it was made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from backgrounds import Backgrounds
from camera import Camera
from clutter import Clutter
from facts import SceneState, Thing, facts_of
from maker import RENDER, SMALLEST_VEHICLE, TOKENS
from questions import BAG, OTHER, PERSON, VEHICLE
from stories import Stories
from torch import Tensor
from torch.nn import functional
from tracks import Cast, extents

KINDS = torch.tensor([PERSON] * 8 + [VEHICLE] * 5 + [2] * 2 + [BAG] * 2 + [OTHER] * 8)
LONG_KINDS = torch.tensor([PERSON] * 8 + [VEHICLE] * 6 + [2] * 2 + [BAG] + [OTHER] * 7)
NUMBER = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 4, 5])
LONG_NUMBER = torch.tensor([0, 1, 2, 3, 3, 4, 4, 5, 6, 8])
"""How many things enter a scene. Often none, so that "no" is as common as "yes"."""

FALLS, PAIRS, FAR, CROWD, LEAVES = 0.1, 0.1, 0.16, 0.16, 0.13
"""Shares of scenes in which someone falls; in which two are close to each other (three in five of them fight); whose things
are seen from far away; that are full of people; in which something is put down (of which a quarter is not left)."""

LITTER = 0.5
"""Share of scenes seen from far away whose things are no vehicles: without them whatever is small is taken for one."""

DRIVEN = 0.25
"""Share of crowds that a vehicle is among."""

TOGETHER = 0.5
"""Share of a crowd's people who go in groups."""


@dataclass
class Scenes:
    """`planes`: (clips, frames, RENDER * 3 // 2, RENDER) uint8 yuv420p, on the device. `cover`: (clips, frames, 8, TOKENS,
    TOKENS) uint8 and `facts`: name -> (clips, frames, ...), as the bank has them (bank.py)."""

    planes: Tensor
    cover: npt.NDArray[np.uint8]
    facts: dict[str, npt.NDArray[np.generic]]


@dataclass
class Canvas:
    """`scene`: (n, t, 3, RENDER, RENDER). `cover`: (n, t, 8, TOKENS, TOKENS), -1 unknown. `ground`: (n, t, 4, TOKENS,
    TOKENS), what is still seen of the background's classes, and `behind`, (n, 4), how much there is of them. `layers`:
    (n, t, TOKENS, TOKENS) what is still seen of each thing, `whole` what was pasted of it."""

    scene: Tensor
    cover: Tensor
    ground: Tensor
    behind: Tensor
    layers: list[Tensor]
    whole: list[Tensor]


@dataclass
class Plot:
    """What a scene is about, (n,) bool each: at most one of them."""

    falls: Tensor
    pairs: Tensor
    traffic: Tensor
    litter: Tensor
    crowd: Tensor
    leaves: Tensor


class Studio(Backgrounds, Clutter, Camera, Stories):
    """Makes scenes."""

    def make(self, clips: int, frames: int) -> Scenes:
        """`clips` new scenes of `frames` frames."""
        n, t, quiet = clips, frames, frames > 4
        picture, cover, seen, known, complete, aspect = self.backgrounds(n, quiet)
        drawn = self.up(torch.nonzero(self.chance(n, 0.25 if quiet else 0.15)).flatten())
        if len(drawn):
            picture[drawn] = self.plain(len(drawn))
            cover[drawn], seen[drawn], known[drawn], complete[drawn] = 0.0, 0.0, True, True
        self.fill(picture, cover, seen, known, complete, aspect)
        ground = cover.clamp(min=0)[:, None].expand(n, t, 4, TOKENS, TOKENS).clone()
        cover = functional.pad(cover, (0, 0, 0, 0, 0, 4))[:, None].expand(n, t, 8, TOKENS, TOKENS).clone()
        canvas = Canvas(
            picture[:, None].expand(n, t, 3, RENDER, RENDER).clone(), cover, ground, ground[:, 0].sum((2, 3)), [], []
        )
        number = (LONG_NUMBER if t > 16 else NUMBER)[self.integers(10, n)]
        story = self.uniform(n)
        shares = torch.tensor([FALLS, PAIRS, FAR * (1 - LITTER), FAR * LITTER, CROWD])
        first = torch.bucketize(story, shares.cumsum(0), right=True)
        plot = Plot(
            falls=first == 0,
            pairs=first == 1,
            traffic=first == 2,
            litter=first == 3,
            crowd=first == 4,
            leaves=(story > 1 - LEAVES) & torch.tensor(t >= 8),
        )
        least = plot.falls + 2 * (plot.leaves | plot.pairs) + 3 * (plot.traffic | plot.litter)
        least = torch.where(plot.crowd, 4 + self.integers(5, n), least)
        number = torch.maximum(number, least)
        ground_of = self.grounds(n)
        scene = SceneState(n, t, seen.cpu(), known.cpu(), complete.cpu())
        for slot in range(int(number.max())):
            cast = self._cast(slot, n, t > 16, plot, aspect, scene)
            track = self.track(t, cast, ground_of)
            self.poses(cast, track, ~(plot.falls | plot.pairs | plot.leaves) | torch.tensor(slot > 1))
            if slot == 0:
                scene.fall = self.fall(t, plot.falls, cast, track, aspect)
                scene.leaving = self.leaving(t, plot.leaves, cast, track)
                scene.fight = self.fight(t, plot.pairs, cast)
                self.spar(scene.fight, -1, cast, track, aspect)
            if slot == 1:
                owner = scene.things[0]
                self.put_down(scene.leaving, owner.track, owner.cast, cast, track)
                self.spar(scene.fight, 1, cast, track, aspect)
            track.there &= (number > slot)[:, None]
            track.popped &= (number > slot)[:, None]
            thing = Thing(cast, track, *extents(cast, track.turn, aspect, track.squash))
            scene.things.append(thing)
            self._paste(canvas, thing, scene.flags(slot))
        facts, cover8 = facts_of(scene, canvas)
        return Scenes(self.film(canvas.scene), cover8, facts)

    def _cast(self, slot: int, n: int, long: bool, plot: Plot, aspect: Tensor, scene: SceneState) -> Cast:
        """What enters in this slot."""
        lib = self.library
        kinds = LONG_KINDS if long else KINDS
        kind = kinds[self.integers(len(kinds), n)]
        small = torch.where(self.chance(n, 0.15), BAG, OTHER)
        kind = torch.where(plot.traffic, VEHICLE, torch.where(plot.litter, small, kind))
        crowd = torch.where(self.chance(n, 0.8), PERSON, OTHER)
        crowd = torch.where(self.chance(n, DRIVEN) & torch.tensor(slot == 3), VEHICLE, crowd)
        kind = torch.where(plot.crowd, crowd, kind)
        if slot == 0:
            kind = torch.where(plot.falls | plot.leaves | plot.pairs, PERSON, kind)
        if slot == 1:
            kind = torch.where(plot.leaves, torch.where(self.chance(n, 0.7), BAG, OTHER), kind)
            kind = torch.where(plot.pairs, PERSON, kind)
        pick = torch.zeros(n, dtype=torch.long)
        for k in range(5):
            mine = torch.nonzero(kind == k).flatten()
            pick[mine] = lib.by_class[k][self.integers(len(lib.by_class[k]), len(mine))]
        if len(lib.from_above):
            above = torch.nonzero((kind == VEHICLE) & self.chance(n, 0.5)).flatten()
            pick[above] = lib.from_above[self.integers(len(lib.from_above), len(above))]
        together = (kind == PERSON) & self.chance(n, TOGETHER) & plot.crowd
        if len(lib.groups):
            mine = torch.nonzero(together).flatten()
            pick[mine] = lib.groups[self.integers(len(lib.groups), len(mine))]
            scene.complete[mine, PERSON] = False  # how many they are is not known
        small = self.chance(n, 0.6)
        low, high = torch.where(small, 0.055, 0.2), torch.where(small, 0.25, 0.95)
        size = low * (high / low) ** self.uniform(n)
        most = torch.where(kind == BAG, 0.25, torch.where(kind == VEHICLE, 0.7, 1.0))
        far = SMALLEST_VEHICLE * 5.0 ** self.uniform(n)
        size = torch.where(plot.traffic | plot.litter, far, torch.minimum(size, most))
        size = torch.where(plot.crowd, 0.06 * 4.5 ** self.uniform(n) * torch.where(kind == VEHICLE, 1.3, 1.0), size)
        if slot == 0:
            size = torch.where(plot.falls, size.clamp(0.16, 0.85), size)
            size = torch.where(plot.leaves | plot.pairs, size.clamp(0.2, 0.75), size)
        elif slot == 1:
            first = scene.things[0].cast.size
            size = torch.where(plot.leaves, (first * self.uniform(n, low=0.3, high=0.6)).clamp(min=0.08), size)
            size = torch.where(plot.pairs, first * self.uniform(n, low=0.85, high=1.1), size)
        stretch = 1 + (self.uniform(n) - 0.5) * 0.2
        half_h, half_w = size / 2, size * lib.cut_aspect[pick] * stretch / aspect / 2
        limit = (torch.where(together, 0.35, 0.6) / half_w.clamp(min=1e-3)).clamp(max=1)
        return Cast(kind, pick, half_w * limit, half_h * limit, size * limit)

    def _paste(self, canvas: Canvas, thing: Thing, flags: Tensor) -> None:
        """Pastes one cut-out a clip where it is there. `flags`: (n, t, 8) whether it counts in a channel of `cover`: 1, 0,
        -1 for "not certain"."""
        lib, dev, cast, track = self.library, self.device, thing.cast, thing.track
        n, t = track.x.shape
        pixels = 2 * cast.half_h * RENDER
        level = torch.where(pixels > 112, 0, torch.where(pixels > 56, 1, torch.where(pixels > 28, 2, 3)))
        flip = torch.where(self.chance(n, 0.5), -1.0, 1.0)
        gain = self.up(self.uniform(n, 1, low=0.65, high=1.35) + (self.uniform(n, 3) - 0.5) * 0.16)
        axis = (torch.arange(RENDER, device=dev) + 0.5) / RENDER
        whole = torch.zeros(n, t, TOKENS, TOKENS, device=dev)
        for which in range(4):
            clip, frame = torch.nonzero((level == which)[:, None] & (thing.inside > 0), as_tuple=True)
            if not len(clip):
                continue
            cx, cy, hw, hh = track.x[clip, frame], track.y[clip, frame], cast.half_w[clip], cast.half_h[clip]
            hh = hh * track.squash[clip, frame]
            angle = track.turn[clip, frame]
            cos, sin = (self.up(v)[:, None, None] for v in (angle.cos(), angle.sin()))
            dx = ((axis[None] - self.up(cx)[:, None]) / self.up(hw)[:, None])[:, None, :]
            dy = ((axis[None] - self.up(cy)[:, None]) / self.up(hh)[:, None])[:, :, None]
            own = self.up(lib.cut_aspect[cast.pick[clip]])[:, None, None]
            u = (cos * dx + sin * dy / own) * self.up(flip[clip] * track.mirror[clip, frame])[:, None, None]
            v = -sin * dx * own + cos * dy
            grid = torch.stack([u, v.expand_as(u)], -1).clamp(-4, 4)
            cut = lib.cuts[which][self.up(cast.pick[clip])]
            cut = torch.cat([cut[:, :3] * gain[self.up(clip)][:, :, None, None], cut[:, 3:]], 1)
            layer = functional.grid_sample(cut, grid, align_corners=False)
            alpha = layer[:, 3:]
            at = self.up(clip), self.up(frame)
            canvas.scene[at] = canvas.scene[at] * (1 - alpha) + layer[:, :3]
            whole[at] = functional.avg_pool2d(alpha, RENDER // TOKENS)[:, 0]
        share, flag = whole[:, :, None], self.up(flags)[..., None, None]
        before = canvas.cover
        hidden = torch.where(before >= 0, before * (1 - share), torch.where(share > 0.7, 0.0, before))
        mine = torch.maximum(hidden, share)
        doubtful = torch.where(share > 0.03, -1.0, hidden)
        canvas.cover = torch.where(flag > 0, mine, torch.where(flag < 0, doubtful, hidden))
        canvas.ground *= 1 - share
        canvas.layers = [*(behind * (1 - whole) for behind in canvas.layers), whole]
        canvas.whole.append(whole)
