"""Groups of people as one cut-out, and the shadows that people cast: what plazas and streets without vehicles are full of.

A scene of single cut-outs shows five people at most; a model that never saw thirty small ones took them for traffic.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

GROUPS, SHADOWS = 240, 120


def groups(number: int, people: Tensor, aspects: list[float], seed: int) -> tuple[Tensor, list[float]]:
    """((number, 4, s, s) 0 to 1 RGBA of groups stretched to the square, the width / height of each). `people`: (N, 4, s, s)
    0 to 1 RGBA of standing people, `aspects` theirs. Two to nine people stand side by side and behind one another."""
    random = torch.Generator().manual_seed(seed)
    side = people.shape[-1]
    out, wide = torch.zeros(number, 4, side, side), []

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=random))

    upright = [i for i, aspect in enumerate(aspects) if 0.2 < aspect < 0.55] or list(range(len(aspects)))
    for group in out:
        size = int(torch.randint(2, 10, (1,), generator=random))
        chosen = [upright[int(torch.randint(len(upright), (1,), generator=random))] for _ in range(size)]
        deep = uniform(0.0, 0.45) if size > 2 else 0.0
        x, places = 0.0, []
        for who in chosen:
            high = (1 - deep) * uniform(0.82, 1.0)
            places.append((x, uniform(high, 1.0) if deep else 1.0, high, high * aspects[who]))
            x += high * aspects[who] * uniform(0.45, 1.3) * (0.6 if deep else 1.0)
        width = max(left + wide_ for left, _, _, wide_ in places)
        # Who stands further down stands in front.
        for (left, foot, high, broad), who in sorted(zip(places, chosen, strict=True), key=lambda one: one[0][1]):
            h, w = max(2, round(high * side)), max(2, round(broad / width * side))
            top, start = min(side - h, round((foot - high) * side)), min(side - w, round(left / width * side))
            one = functional.interpolate(people[who][None], (h, w), mode="bilinear", antialias=True)[0]
            part = group[:, max(0, top) : top + h, start : start + w]
            one = one[:, -part.shape[1] :]
            alpha = one[3:] + part[3:] * (1 - one[3:])
            part[:3] = (one[:3] * one[3:] + part[:3] * part[3:] * (1 - one[3:])) / alpha.clamp(min=1e-4)
            part[3:] = alpha
        wide.append(width)
    return out, wide


def shadows(number: int, people: Tensor, aspects: list[float], seed: int) -> tuple[Tensor, list[float]]:
    """The same of shadows: dark, thin, lying and slanting."""
    random = torch.Generator().manual_seed(seed)
    side = people.shape[-1]
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    out, wide = torch.zeros(number, 4, side, side), []
    for shadow in out:
        who = int(torch.randint(len(people), (1,), generator=random))
        slant, thin, tone, flat = torch.rand(4, generator=random).tolist()
        slant = (slant - 0.5) * 2.4
        x = axis[None] * (1 + abs(slant)) - slant * axis[:, None]
        grid = torch.stack([x, axis[:, None].expand(side, side)], -1)[None]
        alpha = functional.grid_sample(people[who][None, 3:], grid, align_corners=False)[0]
        shadow[:3], shadow[3:] = 0.02 + 0.12 * tone, alpha * (0.25 + 0.5 * thin)
        wide.append(aspects[who] * (1 + abs(slant)) * (1 + 3 * flat))
    return out, wide
