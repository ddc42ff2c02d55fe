"""What a fixed camera looks at when nothing happens: photographs, mosaics of them, empty cameras, drawn surfaces."""

from __future__ import annotations

import math

import torch
from maker import RENDER, SMALLEST, TOKENS, Maker
from questions import VEHICLE
from torch import Tensor
from torch.nn import functional

MARKED = 0.7
"""Share of drawn surfaces that are painted and stained like roads and car parks, which photographs show full of vehicles."""


class Backgrounds(Maker):
    """Pictures with what is known of where each class is in them."""

    def backgrounds(self, n: int, quiet: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(pictures (n, 3, S, S) 0 to 1, cover (n, 4, T, T), seen (n, 4), known (n, 4), complete (n, 4), aspect of the
        camera (n,)). `quiet`: mostly places without people and vehicles, few mosaics."""
        lib, dev = self.library, self.device
        cells = torch.tensor([1] * 17 + [2] if quiet else [1, 1, 1, 1, 1, 2, 2, 3, 4] * 2)[self.integers(18, n)]
        weights = lib.quiet if quiet else lib.weights / lib.weights.sum() + lib.quiet / lib.quiet.sum()
        aspect = torch.tensor([16 / 9, 16 / 9, 4 / 3, 1.25, 1.0])[self.integers(5, n)]
        pictures = torch.empty(n, 3, RENDER, RENDER, device=dev, dtype=torch.float32)
        cover = torch.zeros(n, 4, TOKENS, TOKENS, device=dev)
        seen, known = torch.zeros(n, 4, device=dev), torch.ones(n, 4, dtype=torch.bool, device=dev)
        complete = known.clone()
        for m in (1, 2, 3, 4):
            of = torch.nonzero(cells == m).flatten()
            if not len(of):
                continue
            k, rows = len(of) * m * m, self.up(of)
            photo = torch.multinomial(weights, k, replacement=True, generator=self.random)
            zoom = self.uniform(k, low=0.55 if m == 1 else 0.75, high=1.0)
            # The crop's shape follows the camera's, so that things keep their proportions.
            ratio = aspect[of].repeat_interleave(m * m) / lib.aspect[photo]
            width, height = zoom * ratio.clamp(max=1), zoom * (1 / ratio).clamp(max=1)
            left, top = self.uniform(k) * (1 - width), self.uniform(k) * (1 - height)
            flip = self.up(self.uniform(k) < 0.5)
            crop = self.up(torch.stack([left, top, left + width, top + height], 1))
            photo = self.up(photo)
            cell = RENDER // m
            steps = (torch.arange(cell, device=dev) + 0.5) / cell
            x = crop[:, 0, None] + steps * (crop[:, 2] - crop[:, 0])[:, None]
            x = torch.where(flip[:, None], x.flip(1), x)
            y = crop[:, 1, None] + steps * (crop[:, 3] - crop[:, 1])[:, None]
            square = k, cell, cell
            grid = torch.stack([x[:, None, :].expand(square), y[:, :, None].expand(square)], -1) * 2 - 1
            source = lib.photos[photo] / 255
            if m > 1:
                source = functional.avg_pool2d(source, m)
            picked = functional.grid_sample(source, grid, align_corners=False, padding_mode="border")
            picked = (
                picked.view(len(of), m, m, 3, cell, cell)
                .permute(0, 3, 1, 4, 2, 5)
                .reshape(len(of), 3, m * cell, m * cell)
            )
            if m * cell != RENDER:
                picked = functional.pad(picked, (0, RENDER - m * cell, 0, RENDER - m * cell), mode="replicate")
            pictures[rows] = picked
            part, there, barely = self._boxes(photo, crop, flip, m)
            for c in range(4):
                sure = lib.known[photo, c].view(len(of), m * m)
                # Where a class is not fully boxed, what lies outside its boxes is unknown.
                spot = (torch.arange(TOKENS, device=dev) * m // TOKENS).clamp(max=m - 1)
                unsure = ~sure.view(len(of), m, m)[:, spot][:, :, spot]
                if c == VEHICLE:
                    unsure &= ~self._clear(photo, crop, m)
                cover[rows, c] = torch.where(unsure & (part[c] < 0.3), torch.full_like(part[c], -1.0), part[c])
                seen[rows, c] = there[c]
                known[rows, c] = sure.all(1) & ~(barely[c] & (there[c] == 0))
                complete[rows, c] = sure.all(1) & ~barely[c]
        # In other colours it is one more place that holds nothing of what is asked about.
        other = self.up(torch.nonzero(self.chance(n, 0.15)).flatten())
        pictures[other] = pictures[other].flip(1)
        return pictures, cover, seen, known, complete, aspect

    def _clear(self, photo: Tensor, crop: Tensor, m: int) -> Tensor:
        """(n, T, T) bool: tokens of mosaics of m x m crops that lie where photographs are known to show no vehicle."""
        lib, n = self.library, len(photo) // (m * m)
        edges = torch.arange(TOKENS, device=self.device) * m / TOKENS
        cell, top = edges.long().clamp(max=m - 1), edges % 1
        high = (crop[:, 3] - crop[:, 1])[:, None]
        begin = crop[:, 1, None] + top * high  # (n * m * m, T): of each row of tokens, in the photograph
        above = begin + high * m / TOKENS <= lib.clear[photo, :1]
        rows = (above | (begin >= lib.clear[photo, 1:])).view(n, m, m, TOKENS)
        of = torch.arange(TOKENS, device=self.device)
        return rows[:, cell[:, None], cell[None, :], of[:, None]]

    def _boxes(
        self, photo: Tensor, crop: Tensor, flip: Tensor, m: int
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """By class, of mosaics of m x m crops: (share of each token covered (n, T, T), instances in view (n,), whether one
        is barely in view (n,))."""
        lib, n = self.library, len(photo) // (m * m)
        size = (crop[:, 2:] - crop[:, :2])[:, None, [0, 1, 0, 1]]
        boxes = (lib.boxes[photo] - crop[:, None, [0, 1, 0, 1]]) / size
        mirrored = torch.stack([1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], -1)
        boxes = torch.where(flip[:, None, None], mirrored, boxes)
        full = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=1e-6)
        boxes = boxes.clamp(0, 1)
        w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
        offset = torch.arange(m * m, device=self.device)
        corner = torch.stack([offset % m, offset // m], 1).repeat(n, 1).repeat(1, 2)
        boxes = (boxes + corner[:, None]) / m
        visible = (w * h / full > 0.4) & (h / m > SMALLEST) & (w / m > 0.02)
        sliver = (w * h > 0) & ~visible
        # Shrunk a little: a box's rim is mostly background.
        rim = torch.stack([w * 0.08, h * 0.04, -w * 0.08, -h * 0.04], -1) / m
        x0, y0, x1, y1 = (boxes + rim)[..., None].unbind(-2)
        edges = torch.arange(TOKENS, device=self.device) / TOKENS
        ox = (torch.minimum(x1, edges + 1 / TOKENS) - torch.maximum(x0, edges)).clamp(min=0)
        oy = (torch.minimum(y1, edges + 1 / TOKENS) - torch.maximum(y0, edges)).clamp(min=0)
        share = oy[..., :, None] * ox[..., None, :] * TOKENS * TOKENS
        parts, there, barely = [], [], []
        for c in range(4):
            mine = (lib.kinds[photo] == c) & (w * h > 0)
            part = (share * mine[..., None, None]).amax(1).view(n, m * m, TOKENS, TOKENS).amax(1)
            parts.append(part)
            there.append((mine & visible).sum(1).view(n, m * m).sum(1).float())
            barely.append((mine & sliver).any(1).view(n, m * m).any(1))
        return parts, there, barely

    def plain(self, n: int) -> Tensor:
        """(n, 3, S, S): surfaces as a camera sees them, drawn: two planes, soft texture, a few lines."""
        dev = self.device
        base = self.up(self.uniform(n, 3, 1, 1, low=0.15, high=0.75))
        base = base.mean(1, keepdim=True) + (base - base.mean(1, keepdim=True)) * 0.2
        picture = base.expand(n, 3, RENDER, RENDER).clone()
        y = torch.arange(RENDER, device=dev).view(1, 1, RENDER, 1) / RENDER
        x = torch.arange(RENDER, device=dev).view(1, 1, 1, RENDER) / RENDER
        horizon = (
            self.up(self.uniform(n, 1, 1, 1, low=-0.6, high=0.6))
            + self.up(self.uniform(n, 1, 1, 1, low=-0.3, high=0.3)) * x
        )
        picture = torch.where(y < horizon, picture * self.up(self.uniform(n, 1, 1, 1, low=0.6, high=1.7)), picture)
        for size, strength in ((4, 0.12), (16, 0.06), (64, 0.04), (224, 0.04)):
            texture = self.gaussian(n, 1, size, size)
            texture = functional.interpolate(texture, (RENDER, RENDER), mode="bilinear", align_corners=False)
            picture = picture + texture * strength * self.up(self.uniform(n, 1, 1, 1))
        for _ in range(6):
            angle, offset = (
                self.up(self.uniform(n, 1, 1, 1, high=math.pi)),
                self.up(self.uniform(n, 1, 1, 1, low=-0.5, high=1.2)),
            )
            distance = (x * angle.cos() + y * angle.sin() - offset).abs()
            width = self.up(self.uniform(n, 1, 1, 1, low=0.001, high=0.015))
            mark = (distance < width) & (self.up(self.uniform(n, 1, 1, 1)) < 0.6)
            picture = torch.where(
                mark, self.up(self.uniform(n, 1, 1, 1, low=0.1, high=1.0)) * 0.5 + picture * 0.5, picture
            )
        marked = self.up(torch.nonzero(self.chance(n, MARKED)).flatten())
        picture[marked] = self._stained(self._painted(picture[marked]))
        return picture.clamp(0, 1)

    def _painted(self, picture: Tensor) -> Tensor:
        """`picture`, (n, 3, S, S), with what is painted on roads: rows of strokes, as bays (side by side) or lanes (one
        after another) have them."""
        n, one = len(picture), (len(picture), 1, 1, 1)
        x, y = self._places()
        for _ in range(2):
            left, top = self.uniform(*one, low=-0.2, high=0.9), self.uniform(*one, low=-0.2, high=0.9)
            across = self.uniform(*one, high=math.pi)
            gap = self.uniform(*one, low=0.06, high=0.3)
            along = torch.where(self.chance(n, 0.3).view(one), across, self.uniform(*one, high=math.pi))
            fan = self.uniform(*one, low=-0.05, high=0.05)
            length = 0.04 * 20 ** self.uniform(*one)
            width, wear = self.uniform(*one, low=0.002, high=0.012), self.uniform(*one, low=0.4, high=0.95)
            tone = self.uniform(n, 1, 1, 1, low=0.7, high=1.0) * torch.ones(1, 3, 1, 1)
            tone[:, 2:] *= torch.where(self.chance(n, 0.2), 0.4, 1.0).view(one)  # yellow
            number = self.integers(9, *one)
            for i in range(8):
                angle = along + fan * i
                dx = x - self.up(left + gap * i * across.cos())
                dy = y - self.up(top + gap * i * across.sin())
                cos, sin = self.up(angle.cos()), self.up(angle.sin())
                reach = (dx * cos + dy * sin).clamp(min=0).minimum(self.up(length))
                distance = ((dx - reach * cos) ** 2 + (dy - reach * sin) ** 2).sqrt()
                alpha = ((self.up(width) - distance) * RENDER).clamp(0, 1) * self.up(wear * (number > i))
                picture = picture * (1 - alpha) + self.up(tone) * alpha
        return picture

    def _stained(self, picture: Tensor) -> Tensor:
        """`picture`, (n, 3, S, S), with stains, holes' covers and litter too small to be anything."""
        one = (len(picture), 1, 1, 1)
        x, y = self._places()
        for _ in range(8):
            wide, high = 0.003 * 15 ** self.uniform(*one), 0.003 * 10 ** self.uniform(*one)
            dx = (x - self.up(self.uniform(*one))) / self.up(wide)
            dy = (y - self.up(self.uniform(*one))) / self.up(high)
            darker = self.uniform(*one, low=-0.5, high=0.7) * self.uniform(*one)
            picture = picture * (1 - (1.5 - (dx**2 + dy**2)).clamp(0, 1) * self.up(darker))
        return picture

    def _places(self) -> tuple[Tensor, Tensor]:
        """(x (1, 1, 1, S), y (1, 1, S, 1)) of a picture's pixels, shares of its sides."""
        axis = (torch.arange(RENDER, device=self.device) + 0.5) / RENDER
        return axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)
