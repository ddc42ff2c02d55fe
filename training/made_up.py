"""Things of no class that are made up: what some photograph shows, in the shape of something else or of nothing.

A few hundred cut-outs are soon known by heart, and whatever is none of them is then taken for a vehicle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MADE_UP = 1.0
"""Things that are made up, for each thing of no class that was cut out."""


def made_up(number: int, side: int, shapes: Tensor, photos: Tensor) -> tuple[Tensor, list[float]]:
    """((number, 4, side, side) 0 to 1 RGBA, the width / height of each); the same every time. `shapes`: (N, side, side) 0
    to 1. `photos`: (P, 3, S, S) uint8, which show nothing of any class."""
    random = torch.Generator().manual_seed(0)

    def uniform(*size: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(*size, generator=random) * (high - low) + low

    def one_of(things: Tensor) -> Tensor:
        return things[int(torch.randint(len(things), (1,), generator=random))]

    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle, distance = torch.atan2(y, x), (x**2 + y**2).sqrt()
    things = torch.empty(number, 4, side, side)
    for thing in things:
        if len(shapes) and uniform(1) < 0.5:
            thing[3] = one_of(shapes)
        else:  # a blob
            rim = torch.full_like(angle, 0.8)
            for k in range(1, 5):
                rim += uniform(1, high=0.16 / k) * (k * angle + uniform(1, high=2 * math.pi)).cos()
            thing[3] = ((rim - distance) * side / 4).clamp(0, 1)
        photo = one_of(photos)
        size = photo.shape[1]
        height, width = (uniform(2, low=0.15, high=0.9) * size).int().clamp(min=2).tolist()
        top, left = int(uniform(1) * (size - height)), int(uniform(1) * (size - width))
        crop = photo[None, :, top : top + height, left : left + width].float() / 255
        thing[:3] = functional.interpolate(crop, (side, side), mode="bilinear", align_corners=False)[0]
    return things, (uniform(number, low=-0.9, high=0.9)).exp().tolist()
