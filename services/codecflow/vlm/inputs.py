"""What a sampler needs to know about a model: the token grid for a picture of any size, and how to prepare its patches.

Small values without weights, which are sent to sampler processes. This module does not import transformers, which takes
seconds and hundreds of megabytes per process.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from codecflow.errors import ModelError
from codecflow.grid import TokenGrid

from .preprocessing import Preprocessing, gather_patches, grouped_places

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ModelInput(ABC):
    """The input format of one checkpoint. `patch`: side of the ViT's patches, in pixels."""

    preprocess: Preprocessing
    patch: int

    @abstractmethod
    def grid(self, width: int, height: int) -> TokenGrid:
        """The token grid of a shown picture of this size, with the region of each token. Raises ModelError."""

    @abstractmethod
    def size(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) of the model's input for a shown picture of `width` x `height`. Raises ModelError."""

    @abstractmethod
    def places(self, kept: Ints, size: tuple[int, int]) -> Ints:
        """Row and column (patches, 2) of the patches that the `kept` tokens (tokens,) need, in the patch grid of an input of
        `size` (height, width), in merge order."""

    def pixels(self, rgb: npt.NDArray[np.uint8]) -> Tensor:
        """A shown picture (height, width, 3) resized to the model's input size, uint8, like the family's own processor does
        it. Thread-safe; releases the GIL."""
        height, width = self.size(rgb.shape[1], rgb.shape[0])
        return self.preprocess.resize(rgb, height, width)

    def patches(self, rgb: npt.NDArray[np.uint8], keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        """Of `pixels`, those patches that the tokens in `keep` (tokens,) need: (patches, patch, patch, 3), ordered like
        `places`. Thread-safe."""
        picture = self.pixels(rgb).numpy()
        places = self.places(np.flatnonzero(keep), picture.shape[:2])
        patches = np.empty((len(places), self.patch, self.patch, 3), np.uint8)
        gather_patches(picture, places, patches)
        return patches


@dataclass(frozen=True, slots=True)
class GroupedInput(ModelInput):
    """A token has `merge` x `merge` patches of its own."""

    merge: int

    def places(self, kept: Ints, size: tuple[int, int]) -> Ints:
        return grouped_places(size[0] // self.cell, size[1] // self.cell, self.merge)[kept].reshape(-1, 2)

    @property
    def cell(self) -> int:
        """Side of a token, in pixels."""
        return self.patch * self.merge


@dataclass(frozen=True, slots=True)
class FixedInput(GroupedInput):
    """Every picture is resized to `width` x `height`, whatever its shape."""

    width: int
    height: int

    def grid(self, width: int, height: int) -> TokenGrid:
        return TokenGrid.regular(self.height // self.cell, self.width // self.cell, width, height)

    def size(self, width: int, height: int) -> tuple[int, int]:
        return self.height, self.width


@dataclass(frozen=True, slots=True)
class PooledInput(ModelInput):
    """Every picture is resized to a square of `side` pixels. Each row and column of tokens covers its own span of it.

    `spans`: half-open (first, last) pixels of the square per row or column of tokens; they may overlap.
    """

    side: int
    spans: tuple[tuple[int, int], ...]

    def grid(self, width: int, height: int) -> TokenGrid:
        spans, tokens = np.array(self.spans), len(self.spans)
        x, y = ((spans * scale + [0, self.side - 1]) // self.side for scale in (width, height))
        rows, columns = np.repeat(y, tokens, axis=0), np.tile(x, (tokens, 1))
        boxes = np.stack([columns[:, 0], rows[:, 0], columns[:, 1], rows[:, 1]], axis=1).astype(np.int32)
        return TokenGrid(tokens, tokens, width, height, boxes)

    def size(self, width: int, height: int) -> tuple[int, int]:
        return self.side, self.side

    def places(self, kept: Ints, size: tuple[int, int]) -> Ints:
        side = self.side // self.patch
        taps = np.array(self.spans) // self.patch - [0, 1]
        rows, columns = (taps[axis] for axis in np.divmod(kept, len(taps)))
        return np.stack(np.divmod(np.unique(rows[:, :, None] * side + columns[:, None, :]), side), axis=1)


@dataclass(frozen=True, slots=True)
class ShapedInput(GroupedInput):
    """A picture keeps its aspect ratio: its sides become multiples of `cell` pixels, one token each, by Qwen's rule for
    videos (transformers' `smart_resize`), which divides between `fewest` and `most` pixels among `frames` frames.

    `depth`: frames per temporal patch.
    """

    depth: int
    frames: int
    fewest: int
    most: int

    def grid(self, width: int, height: int) -> TokenGrid:
        tall, wide = self.size(width, height)
        return TokenGrid.regular(tall // self.cell, wide // self.cell, width, height)

    def size(self, width: int, height: int) -> tuple[int, int]:
        cell, given = self.cell, (height, width)
        if min(given) < cell:
            scale = cell / min(given)
            given = (int(height * scale), int(width * scale))
        ratio = max(given) / min(given)
        if ratio > 200:
            raise ModelError(
                f"pictures of {width}x{height}: their sides are {ratio:.0f} to 1; at most 200 to 1 is allowed"
            )
        tall, wide = (round(side / cell) * cell for side in given)
        pixels = round(self.frames / self.depth) * self.depth * tall * wide
        if pixels > self.most:
            shrink = math.sqrt(self.frames * given[0] * given[1] / self.most)
            tall, wide = (max(cell, math.floor(side / shrink / cell) * cell) for side in given)
        elif pixels < self.fewest:
            grow = math.sqrt(self.fewest / (self.frames * given[0] * given[1]))
            tall, wide = (math.ceil(side * grow / cell) * cell for side in given)
        return tall, wide
