"""What a camera and a codec make of a scene, and the product's replenish on the result."""

from __future__ import annotations

import math

import torch
from maker import SIDE, TOKENS, Library, Maker
from torch import Tensor
from torch.nn import functional

STALE, STALE_PART = 4.0, 8.0
"""Replenish's thresholds, in grey levels: over a token, and over any of its 4x4 parts."""


class Camera(Maker):
    def __init__(self, library: Library, seed: int) -> None:
        super().__init__(library, seed)
        basis = torch.cos(math.pi / 8 * (torch.arange(8.0)[None] + 0.5) * torch.arange(8.0)[:, None]) * 0.5
        basis[0] /= math.sqrt(2)
        self.dct = basis.to(self.device)  # (8, 8)
        ramp = 1 + (torch.arange(8)[:, None] + torch.arange(8)[None]).float() * 0.6
        self.ramp = ramp.to(self.device)  # coarser steps for finer detail

    def film(self, scene: Tensor) -> Tensor:
        """What a camera makes of it: blur, light and its drift, sensor noise, the codec's blocks. (n, t, 3, S, S) uint8."""
        n, t = scene.shape[:2]

        def each(x: Tensor) -> Tensor:
            return self.up(x.float()).view(n, -1, 1, 1, 1)

        gamma = self.uniform(n, low=0.65, high=1.6)
        gain, lift = self.uniform(n, low=0.55, high=1.2), self.uniform(n, low=0.0, high=0.12)
        drift = torch.cumsum((self.uniform(n, t) - 0.5) * 0.02 * (self.uniform(n, 1) < 0.3), 1)
        tint = 1 + (self.uniform(n, 3) - 0.5) * 0.2
        grey = (self.uniform(n) < 0.12).float()
        noise = self.uniform(n, high=0.016) * (self.uniform(n) < 0.6)
        blur = (self.uniform(n, low=0.0, high=1.6) * (self.uniform(n) < 0.6)).clamp(min=0.05)
        quality = (0.004 * 12.0 ** self.uniform(n) * (self.uniform(n) < 0.7)).clamp(min=1e-4)
        scene = scene + (scene.mean(2, keepdim=True) - scene) * each(grey)
        kernel = torch.exp(-(torch.arange(-3.0, 4.0)[None] ** 2) / (2 * blur[:, None] ** 2))
        kernel = self.up(kernel / kernel.sum(1, keepdim=True))
        flat = scene.permute(1, 2, 0, 3, 4).reshape(
            t * 3, n, SIDE, SIDE
        )  # a clip is a channel, with a kernel of its own
        flat = functional.conv2d(
            functional.pad(flat, (3, 3, 0, 0), mode="replicate"), kernel.view(n, 1, 1, 7), groups=n
        )
        flat = functional.conv2d(
            functional.pad(flat, (0, 0, 3, 3), mode="replicate"), kernel.view(n, 1, 7, 1), groups=n
        )
        scene = flat.view(t, 3, n, SIDE, SIDE).permute(2, 0, 1, 3, 4)
        scene = scene.clamp(0, 1) ** each(gamma) * each(gain) + each(lift)
        scene = scene * self.up(torch.where(grey[:, None] > 0, torch.ones(()), tint)).view(n, 1, 3, 1, 1)
        scene = scene + each(drift) + torch.randn_like(scene) * each(noise)
        # Coarse DCT coefficients, as a codec leaves them.
        step = self.ramp * self.up(quality).view(n, 1, 1, 1, 1, 1, 1)
        blocks = scene.reshape(n, t, 3, SIDE // 8, 8, SIDE // 8, 8).transpose(4, 5)
        blocks = self.dct.T @ (torch.round(self.dct @ blocks @ self.dct.T / step) * step) @ self.dct
        scene = blocks.transpose(4, 5).reshape(n, t, 3, SIDE, SIDE)
        return (scene.clamp(0, 1) * 255).round().to(torch.uint8)


def replenish(frames: Tensor, anchor_every: int, phase: int) -> Tensor:
    """(n, t, TOKENS^2) bool: the product's replenish with anchors, on (n, t, 3, S, S) uint8.

    All but the detail cells, which the product lays on the coded picture's blocks; a test holds the masks to 95 %.

    The first frame is kept whole, and so is each whose slot, counted from `phase`, is a multiple of `anchor_every`.
    """
    n, t = frames.shape[:2]
    weights = torch.tensor([0.299, 0.587, 0.114], device=frames.device).view(1, 3, 1, 1)
    cell, part = SIDE // TOKENS, SIDE // TOKENS // 4
    keep = torch.zeros(n, t, TOKENS, TOKENS, dtype=torch.bool, device=frames.device)
    kept = None
    for i in range(t):
        luma = (frames[:, i].float() * weights).sum(1).round()
        if kept is None or (i + phase) % anchor_every == 0:
            keep[:, i] = True
            kept = luma
            continue
        difference = (luma - kept).abs()[:, None]
        parts = functional.avg_pool2d(difference, part)
        stale = functional.avg_pool2d(parts, 4)[:, 0] > STALE
        stale |= functional.max_pool2d(parts, 4)[:, 0] > STALE_PART
        keep[:, i] = stale
        mask = stale.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
        kept = torch.where(mask, luma, kept)
    return keep.flatten(2)
