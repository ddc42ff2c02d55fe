"""What is certain of each frame of a scene, from how it was made: the bank's facts and dense labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from maker import SMALLEST, SMALLEST_VEHICLE
from questions import PERSON, VEHICLE
from stories import Fall, Fight, Leaving
from torch import Tensor
from tracks import Cast, Track

if TYPE_CHECKING:
    from scenes import Canvas

MOVES, STANDS = 0.02, 0.004
"""Of a thing's speed, in shares of the picture a frame: above the first it moves, below the second it stands."""

IN_VIEW = 0.45
"""Share of a thing that must lie within the picture, and not behind others, for it to count as in view."""

SHOWS = 0.25
"""Share of it that is enough to see that it moves."""

FAR = 0.25
"""From here on an owner has left what was put down, as a share of the picture's width."""

MOVING, FALLEN, LEFT, FIGHTING = 4, 5, 6, 7
"""Channels of the cover after the four classes."""


@dataclass
class Thing:
    """One thing of each clip. `half_w`, `half_h`: (n, t) as turned. `inside`: (n, t) share of it within the picture."""

    cast: Cast
    track: Track
    half_w: Tensor
    half_h: Tensor
    inside: Tensor = field(init=False)
    centre: Tensor = field(init=False)

    def __post_init__(self) -> None:
        x, y = self.track.x, self.track.y
        left, right = (x - self.half_w).clamp(0, 1), (x + self.half_w).clamp(0, 1)
        top, bottom = (y - self.half_h).clamp(0, 1), (y + self.half_h).clamp(0, 1)
        full = (4 * self.half_w * self.half_h).clamp(min=1e-6)
        self.inside = (right - left) * (bottom - top) / full * self.track.there
        self.centre = torch.stack([(left + right) / 2, (top + bottom) / 2], -1)

    @property
    def large(self) -> Tensor:
        """(n,) bool: high enough to be asked about."""
        return self.cast.size >= torch.where(self.cast.kind == VEHICLE, SMALLEST_VEHICLE, SMALLEST)

    def moves(self) -> tuple[Tensor, Tensor]:
        """(n, t) bool, whether it visibly moves, and whether that is not certain; others in front of it left aside."""
        track, had = self.track, torch.cat([self.inside[:, :1], self.inside[:, :-1]], 1)
        moves = (track.speed > MOVES) & (self.inside > SHOWS) & self.large[:, None] & ~track.popped
        vague = (track.speed > STANDS) & (self.inside > 0) | track.popped | ((had > 0) != (self.inside > 0))
        return moves, vague & ~moves


@dataclass
class SceneState:
    """The story of a batch of scenes: what the background shows, (n, 4) each, and the things in the order of pasting."""

    n: int
    t: int
    seen: Tensor
    known: Tensor
    complete: Tensor
    things: list[Thing] = field(default_factory=list)
    fall: Fall = field(init=False)
    leaving: Leaving = field(init=False)
    fight: Fight = field(init=False)

    def flags(self, slot: int) -> Tensor:
        """(n, t, 8): in which channels of the cover this thing counts, 1, 0, or -1 where that is not certain."""
        thing = self.things[slot]
        flags = torch.zeros(self.n, self.t, 8)
        classes = thing.cast.kind[:, None] == torch.arange(4)
        flags[:, :, :4] = classes[:, None].float()
        moves, vague = thing.moves()
        flags[:, :, MOVING] = moves.float() - vague.float()
        # One picture does not show what moves.
        flags[:, 0, MOVING] = -1.0 * (moves | vague)[:, 0] if self.t > 1 else -1.0
        if slot == 0:
            flags[:, :, FALLEN] = torch.where(self.fall.lying, 1.0, -self.fall.falling.float())
        if slot == 1:
            flags[:, :, LEFT] = self.left(torch.ones_like(thing.inside)).float()
            flags[:, :, FALLEN] = -self.fight.down.float()
        if slot < 2:
            flags[:, :, FIGHTING] = self.fight.fighting.float() * (1 if self.t > 1 else -1)
        return flags

    def left(self, visible: Tensor) -> Tensor:
        """(n, t) int8: whether a thing was left behind. `visible`: (n, t) share of it that nothing hides."""
        answer = torch.zeros(self.n, self.t, dtype=torch.int8)
        if len(self.things) < 2:
            return answer
        owner, thing = self.things[:2]
        steps = torch.arange(self.t)[None]
        story = self.leaving.leaves[:, None] & ~self.leaving.stays[:, None] & thing.track.there
        away = story & (steps >= self.leaving.off[:, None])
        far = ((owner.track.x - thing.track.x).abs() > FAR) | (owner.inside <= 0)
        plain = (thing.inside > IN_VIEW) & (visible > IN_VIEW) & thing.large[:, None]
        answer[away] = -1
        answer[away & far & plain] = 1
        return answer


def facts_of(scene: SceneState, canvas: Canvas) -> tuple[dict[str, npt.NDArray[np.generic]], npt.NDArray[np.uint8]]:
    """(facts, cover) as the bank has them, with the clips as a further axis in front."""
    n, t = scene.n, scene.t
    seen = scene.seen[:, None].expand(n, t, 4).clone()
    slivers = torch.zeros(n, t, 4, dtype=torch.bool)
    rest = (canvas.ground.sum((3, 4)) / canvas.behind[:, None].clamp(min=1e-6)).cpu()
    there = seen > 0
    # What others hide of the background's things.
    slivers |= there & (rest < 0.6)
    seen = torch.where(rest < 0.3, 0.0, seen)
    moving, doubt = torch.zeros(n, t), torch.full((n, t), t == 1)  # one picture does not show what moves
    mover, person_at = torch.full((n, t, 2), -1.0), torch.full((n, t, 2), -1.0)
    visible = [share(layer, whole) for layer, whole in zip(canvas.layers, canvas.whole, strict=True)]
    shown: list[Tensor] = []
    for slot, thing in enumerate(scene.things):
        whole = (thing.inside > IN_VIEW) & (visible[slot] > IN_VIEW) & thing.large[:, None]
        barely = ~whole & (thing.inside > 0) & (visible[slot] > 0.02)
        for c in range(4):
            mine = (thing.cast.kind == c)[:, None]
            seen[:, :, c] += (whole & mine).float()
            slivers[:, :, c] |= barely & mine
        moves, vague = thing.moves()
        hidden = visible[slot] <= IN_VIEW
        moving += (moves & ~hidden).float()
        doubt |= vague | moves & hidden
        mover = torch.where((moves & ~hidden)[..., None], thing.centre, mover)
        person_at = torch.where((whole & (thing.cast.kind == PERSON)[:, None])[..., None], thing.centre, person_at)
        shown.append(whole)
    facts: dict[str, Any] = {
        "seen": seen.to(torch.int16),
        "known": scene.known[:, None] | (seen > 0),
        "slivers": slivers,
        "complete": scene.complete[:, None].expand(n, t, 4),
        # Where one thing moves for certain, something does, whatever the others do.
        "moving": torch.where(doubt & (moving == 0), -1.0, moving).to(torch.int8),
        "mover": torch.where(((moving == 1) & ~doubt)[..., None], mover, -1.0),
        "person_at": torch.where((seen[:, :, PERSON] == 1)[..., None], person_at, -1.0),
        "fall": _fall(scene, shown),
        "fight": _fight(scene, shown),
        "left": scene.left(visible[1]) if len(visible) > 1 else torch.zeros(n, t, dtype=torch.int8),
    }
    off = scene.leaving.off[:, None].to(torch.int32) if scene.things else torch.zeros(n, 1, dtype=torch.int32)
    facts["left_since"] = torch.where(facts["left"] != 0, off, -1).to(torch.int32)
    cover = torch.where(canvas.cover < 0, 255.0, (canvas.cover.clamp(0, 1) * 254).round()).to(torch.uint8)
    return {name: values.numpy() for name, values in facts.items()}, cover.cpu().numpy()


def share(layer: Tensor, whole: Tensor) -> Tensor:
    """(n, t), on the CPU: how much of what was pasted is still to be seen."""
    return (layer.sum((2, 3)) / whole.sum((2, 3)).clamp(min=1e-6)).cpu()


def _fall(scene: SceneState, shown: list[Tensor]) -> Tensor:
    """(n, t) int8: someone fell and lies (1), nobody did (0), or it is not certain (-1). `shown`: (n, t) each thing."""
    sure = scene.complete[:, PERSON, None].expand(scene.n, scene.t)
    answer = torch.where(sure, 0, -1).to(torch.int8)
    if scene.things:
        answer[scene.fall.falling] = -1
        answer[scene.fall.lying] = torch.where(shown[0], 1, -1).to(torch.int8)[scene.fall.lying]
        answer[scene.fight.down] = -1
    return answer


def _fight(scene: SceneState, shown: list[Tensor]) -> Tensor:
    """(n, t) int8: people fight (1), nobody does (0), or it is not certain (-1): it takes two pictures to see one."""
    answer = torch.zeros(scene.n, scene.t, dtype=torch.int8)
    if len(shown) > 1:
        fighting = scene.fight.fighting
        begun = torch.cat([torch.zeros_like(fighting[:, :1]), fighting[:, :-1]], 1)
        answer[fighting] = torch.where(shown[0] & shown[1] & begun, 1, -1).to(torch.int8)[fighting]
    return answer
