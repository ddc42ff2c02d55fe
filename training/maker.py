"""What all parts of the scene generator share: sizes, what scenes are made of, and seeded random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 224
"""Of a frame, in pixels: the model's square."""

TOKENS = 8
"""Tokens along each side of a frame."""

NEWEST = 4
"""Frames of the newest stride: two seconds at two frames a second."""

FPS = 2
"""Frames a second."""

BACKGROUND_S = 120
"""Seconds between whole frames from which on tokens outlive their frames: `--coverage background`, as the product has it."""

RENDER = 448
"""Side at which scenes are rendered and encoded, in pixels: a small camera picture, which is then squeezed to SIDE."""

SMALLEST = 0.06
"""Share of the picture's height below which a thing counts as barely in view: 13 pixels of 224."""

SMALLEST_VEHICLE = 0.036
"""The same of a vehicle, which is wider than high and seen from far away: 8 pixels of 224."""


@dataclass
class Library:
    """What scenes are made of, on one device.

    `photos`: (P, 3, RENDER, RENDER) uint8, squeezed to the square; `aspect`: (P,) width / height as taken. `boxes`: (P, B,
    4) shares of width and height, `kinds`: (P, B) class of each, -1 none. `known`: (P, 4) bool, classes of which every
    instance is boxed, so that their absence means something. `clear`: (P, 2) above which share of the height, and below
    which, there are no vehicles all the same. `weights`: (P,) how often each is a background, `quiet`: (P,)
    likewise of long scenes, in which a place must be empty at times. `cuts`: (4 sizes of (N, 4, s, s)) float32
    premultiplied RGBA, each stretched to its square; `cut_aspect`: (N,); `by_class`: indices of each class's cut-outs;
    `groups`: indices of groups of people, which are in no class's list; `from_above`: of vehicles as cameras see them that
    look down on a road (both may be empty).
    """

    photos: Tensor
    aspect: Tensor
    boxes: Tensor
    kinds: Tensor
    known: Tensor
    clear: Tensor
    weights: Tensor
    quiet: Tensor
    cuts: list[Tensor]
    cut_aspect: Tensor
    by_class: list[Tensor]
    groups: Tensor
    from_above: Tensor


class Maker:
    """Makes things of a library. `seed` fixes them all (on one kind of device)."""

    def __init__(self, library: Library, seed: int) -> None:
        self.library = library
        self.device = library.photos.device
        self.random = torch.Generator(device="cpu").manual_seed(seed)
        self.noise = torch.Generator(device=self.device).manual_seed(seed)

    def up(self, x: Tensor) -> Tensor:
        """`x` on the device, without waiting for it."""
        return x.to(self.device, non_blocking=True)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(*shape, generator=self.random) * (high - low) + low

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.random)

    def chance(self, n: int, share: float) -> Tensor:
        """(n,) bool, each true with probability `share`."""
        return self.uniform(n) < share

    def gaussian(self, *shape: int) -> Tensor:
        """Normal noise, drawn on the device."""
        return torch.randn(*shape, generator=self.noise, device=self.device)
