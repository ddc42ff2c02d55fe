"""A vision tower, from patches to features, from CUDA graphs (graphs.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from codecflow.vlm.attention import FixedFrames, FrameLayout
from codecflow.vlm.encoder import TowerInput
from codecflow.vlm.graphs import GraphCache, fill_sequences, fixed_sequences, pad, power, sequence_shapes, stepped
from codecflow.vlm.kernels import Kernel
from codecflow.vlm.transfer import FixedInputs

_MOST_PATCHES = 8192
"""Frames of two seconds of one or two streams; more take a GPU longer than their launches take the host."""


class Bucket(NamedTuple):
    """Sizes to which a forward is padded: rows, frames, rows of the largest frame, patches."""

    rows: int
    frames: int
    longest: int
    patches: int

    @staticmethod
    def of(lengths: Sequence[int], group: int) -> Bucket:
        """`lengths`: rows of each frame; `group`: patches of a token, of which there are only whole ones."""
        count = sum(lengths)
        rows = stepped(count + 1)
        longest = power(max(*lengths, rows - count), 64)
        return Bucket(rows, power(len(lengths) + 1, 8), longest, -(-rows // group) * group)


class _Buffers:
    """The inputs of one bucket's forward. `pixels`: of the largest bucket, of which all buckets use the first rows."""

    def __init__(self, bucket: Bucket, pixels: Tensor, kernel: Kernel) -> None:
        self._inputs = FixedInputs(
            {
                "source": ((bucket.rows,), np.int64),
                "place": ((bucket.rows,), np.int64),
                "back": ((bucket.patches,), np.int64),
                **sequence_shapes("frame", bucket.frames),
            },
            pixels.device,
        )
        own = self._inputs.tensors
        layout = FixedFrames(fixed_sequences(own, "frame", bucket.longest, bucket.rows), kernel)
        self.given = TowerInput(pixels[: bucket.patches], own["source"], own["place"], own["back"], layout)

    def fill(self, given: TowerInput) -> None:
        """Rows of padding are the class token's; pixels of padding keep earlier values, which no row shows."""
        assert isinstance(given.layout, FrameLayout)
        self.given.pixels[: len(given.pixels)].copy_(given.pixels, non_blocking=True)
        with self._inputs.written() as into:
            for name, values in (("source", given.source), ("place", given.place), ("back", given.back)):
                pad(into[name], values, 0)
            fill_sequences(into, "frame", given.layout.planned, len(into["source"]))


class EncoderGraphs:
    """Runs `compute`, a vision tower with `weights`, with `kernel` from graphs where that is faster. `group`: patches of a
    token."""

    def __init__(
        self, compute: Callable[[TowerInput], Tensor], weights: Iterable[Tensor], kernel: Kernel, group: int
    ) -> None:
        self._compute, self._kernel, self._group = compute, kernel, group
        own = list(weights)
        self._device = own[0].device
        self.cache: GraphCache[Bucket, _Buffers] = GraphCache(self._device, own, _MOST_PATCHES)
        self._pixels: Tensor | None = None

    def __call__(self, given: TowerInput) -> Tensor | None:
        """Features (tokens, hidden) of an input on the CPU. None if the forward is to run as it is."""
        assert isinstance(given.layout, FrameLayout)
        if len(given.source) >= self.cache.limit:
            return None
        if self._pixels is None:
            most = Bucket.of([self.cache.limit], self._group).patches
            self._pixels = given.pixels.new_zeros(most, *given.pixels.shape[1:], device=self._device)
        bucket, pixels = Bucket.of(given.layout.lengths, self._group), self._pixels
        graph = self.cache.find(bucket, lambda: _Buffers(bucket, pixels, self._kernel))
        if graph is None:
            return None
        own = graph.buffers
        own.fill(given)
        features = self.cache.run(graph, lambda: self._compute(own.given))
        return features[: len(given.pixels) // self._group].clone()
