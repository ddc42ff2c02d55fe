"""What all parts of the scene generator share: what scenes are made of, and seeded random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 448
"""Of a frame, in pixels: the model's square."""

TOKENS = 16
"""Tokens along each side of a frame."""

NEWEST = 4
"""Frames of the newest stride: two seconds at two frames a second."""


@dataclass
class Library:
    """What scenes are made of, on one device.

    `photos`: (P, 3, SIDE, SIDE) uint8, squeezed to the square; `aspect`: (P,) width / height as taken. `boxes`: (P, B, 4)
    shares of width and height, `kinds`: (P, B) class of each, -1 none. `known`: (P, 4) bool, classes of which every
    instance is boxed, so that their absence means something. `cuts`: (4 sizes of (N, 4, s, s)) float32 premultiplied
    RGBA, each stretched to its square; `cut_aspect`: (N,); `by_class`: indices of each class's cut-outs.
    """

    photos: Tensor
    aspect: Tensor
    boxes: Tensor
    kinds: Tensor
    known: Tensor
    weights: Tensor
    cuts: list[Tensor]
    cut_aspect: Tensor
    by_class: list[Tensor]


class Maker:
    """Makes things of a library. `seed` fixes them all (on one kind of device)."""

    def __init__(self, library: Library, seed: int) -> None:
        self.library = library
        self.device = library.photos.device
        self.random = torch.Generator(device="cpu").manual_seed(seed)

    def up(self, x: Tensor) -> Tensor:
        """`x` on the device, without waiting for it."""
        return x.to(self.device, non_blocking=True)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(*shape, generator=self.random) * (high - low) + low

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.random)
