"""What a camera makes of a scene: blur, light and its drift, sensor noise, and the planes that an encoder takes."""

from __future__ import annotations

import torch
from maker import RENDER, Maker
from torch import Tensor
from torch.nn import functional

NIGHT, NOISY, GLARING, GREY = 0.14, 0.1, 0.1, 0.12
"""Shares of scenes at night, half of them without colours; with much noise by day; in glaring light by day; by day without
colours."""


class Camera(Maker):
    def film(self, scene: Tensor) -> Tensor:
        """`scene`: (n, t, 3, RENDER, RENDER) 0 to 1 -> yuv420p, (n, t, RENDER * 3 // 2, RENDER) uint8, as `planes` says."""
        n, t = scene.shape[:2]

        def each(x: Tensor) -> Tensor:
            return self.up(x.float()).view(n, -1, 1, 1, 1)

        night = self.chance(n, NIGHT)
        gamma = self.uniform(n, low=0.65, high=1.6)
        gamma = torch.where(night, gamma.clamp(max=1.1), gamma)
        gain = torch.where(night, self.uniform(n, low=0.28, high=0.6), self.uniform(n, low=0.55, high=1.2))
        lift = self.uniform(n, low=0.0, high=0.12)
        drift = torch.cumsum((self.uniform(n, t) - 0.5) * 0.02 * self.chance(n, 0.3)[:, None], 1)
        tint = 1 + (self.uniform(n, 3) - 0.5) * 0.2
        grey = (self.chance(n, GREY) | night & self.chance(n, 0.4)).float()
        noise = self.uniform(n, high=0.016) * self.chance(n, 0.6)
        noise = torch.where(night | self.chance(n, NOISY), 0.008 * 5 ** self.uniform(n), noise)
        blur = (self.uniform(n, low=0.0, high=1.6) * self.chance(n, 0.6)).clamp(min=0.05)
        scene = scene + (scene.mean(2, keepdim=True) - scene) * each(grey)
        kernel = torch.exp(-(torch.arange(-3.0, 4.0)[None] ** 2) / (2 * blur[:, None] ** 2))
        kernel = self.up(kernel / kernel.sum(1, keepdim=True))
        # A clip is a channel, with a kernel of its own.
        flat = scene.permute(1, 2, 0, 3, 4).reshape(t * 3, n, RENDER, RENDER)
        flat = functional.pad(flat, (3, 3, 0, 0), mode="replicate")
        flat = functional.conv2d(flat, kernel.view(n, 1, 1, 7), groups=n)
        flat = functional.pad(flat, (0, 0, 3, 3), mode="replicate")
        flat = functional.conv2d(flat, kernel.view(n, 1, 7, 1), groups=n)
        scene = flat.view(t, 3, n, RENDER, RENDER).permute(2, 0, 1, 3, 4)
        scene = scene.clamp(0, 1) ** each(gamma) * each(gain) + each(lift)
        scene = scene * self.up(torch.where(grey[:, None] > 0, torch.ones(()), tint)).view(n, 1, 3, 1, 1)
        scene = scene + each(drift) + self.gaussian(*scene.shape) * each(noise) + self._glare(n, night)
        return planes(scene.flatten(0, 1)).view(n, t, RENDER * 3 // 2, RENDER)

    def _glare(self, n: int, night: Tensor) -> Tensor:
        """(n, 1, 1, RENDER, RENDER): lamps and their halos, the sun's reflections."""
        axis = (torch.arange(RENDER, device=self.device) + 0.5) / RENDER
        x, y = axis.view(1, 1, -1), axis.view(1, -1, 1)
        lit = torch.where(night, self.chance(n, 0.6), self.chance(n, GLARING))
        light = torch.zeros(n, RENDER, RENDER, device=self.device)
        for _ in range(3):
            cx, cy = (self.up(self.uniform(n, 1, 1)) for _ in range(2))
            radius = self.up(0.01 * 20 ** self.uniform(n, 1, 1))
            strength = self.up(self.uniform(n, 1, 1, low=0.2, high=1.0) * (lit & self.chance(n, 0.6)).view(n, 1, 1))
            light += strength * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2))
        return light[:, None, None]


def planes(rgb: Tensor) -> Tensor:
    """(m, 3, h, w) 0 to 1 -> (m, h * 3 // 2, w) uint8 yuv420p, limited range, BT.601: luma, then both chroma planes."""
    m, _, h, w = rgb.shape
    red, green, blue = rgb.clamp(0, 1).unbind(1)
    luma = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    chroma = torch.stack(
        [
            128 - 37.797 * red - 74.203 * green + 112.0 * blue,
            128 + 112.0 * red - 93.786 * green - 18.214 * blue,
        ],
        1,
    )
    chroma = functional.avg_pool2d(chroma, 2).reshape(m, h // 2, w)
    return torch.cat([luma, chroma], 1).round().to(torch.uint8)
