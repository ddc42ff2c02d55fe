"""A vision tower, from patches to features, from CUDA graphs (graphs.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from codecflow.vlm.attention import FixedFrames, FrameLayout
from codecflow.vlm.encoder import TowerInput
from codecflow.vlm.graphs import (
    GraphCache,
    Shapes,
    fill_sequences,
    fixed_sequences,
    pad,
    power,
    sequence_shapes,
    stepped,
)
from codecflow.vlm.kernels import Kernel
from codecflow.vlm.transfer import FixedInputs

_MOST_ROWS = 8192
"""Frames of two seconds of one or two streams; more take a GPU longer than their launches take the host."""


class Bucket(NamedTuple):
    """Sizes to which a forward is padded: rows, frames, rows of the largest frame."""

    rows: int
    frames: int
    longest: int

    @staticmethod
    def of(lengths: Sequence[int], group: int) -> Bucket:
        """`lengths`: rows of each frame; `group`: patches that a token merges: rows are a multiple of it."""
        count = sum(lengths)
        rows = -(-stepped(count + 1) // group) * group
        return Bucket(rows, power(len(lengths) + 1, 8), power(max(*lengths, rows - count), 64))


class _Buffers:
    """The inputs of one bucket's forward. `pixels`: of the largest bucket, of which all buckets use the first rows."""

    def __init__(self, bucket: Bucket, like: TowerInput, pixels: Tensor, kernel: Kernel) -> None:
        arrays: Shapes = {name: ((bucket.rows, *own.shape[1:]), own.numpy().dtype) for name, own in like.arrays.items()}
        self._inputs = FixedInputs({**arrays, **sequence_shapes("frame", bucket.frames)}, pixels.device)
        own = self._inputs.tensors
        layout = FixedFrames(fixed_sequences(own, "frame", bucket.longest, bucket.rows), kernel)
        self.given = TowerInput(pixels[: bucket.rows], {name: own[name] for name in arrays}, layout, bucket.rows)

    def fill(self, given: TowerInput) -> None:
        """What padding reads of the pixels are those of earlier forwards."""
        assert isinstance(given.layout, FrameLayout)
        self.given.pixels[: len(given.pixels)].copy_(given.pixels, non_blocking=True)
        with self._inputs.written() as into:
            for name, values in given.arrays.items():
                pad(into[name], values, 0)
            fill_sequences(into, "frame", given.layout.planned, len(self.given.pixels))


class EncoderGraphs:
    """Runs `compute`, a vision tower with `weights`, with `kernel` from graphs where that is faster. `group`: patches that a
    token merges; 1 where tokens do not merge their own patches."""

    def __init__(
        self, compute: Callable[[TowerInput], Tensor], weights: Iterable[Tensor], kernel: Kernel, group: int
    ) -> None:
        self._compute, self._kernel, self._group = compute, kernel, group
        own = list(weights)
        self._device = own[0].device
        self.cache: GraphCache[Bucket, _Buffers] = GraphCache(self._device, own, _MOST_ROWS)
        self._pixels: Tensor | None = None

    def __call__(self, given: TowerInput) -> Tensor | None:
        """Features (tokens, levels, hidden) of an input on the CPU. None if the forward is to run as it is."""
        assert isinstance(given.layout, FrameLayout)
        lengths = given.layout.lengths
        if sum(lengths) >= self.cache.limit:
            return None
        if self._pixels is None:
            most = Bucket.of([self.cache.limit], self._group).rows
            self._pixels = given.pixels.new_zeros(most, *given.pixels.shape[1:], device=self._device)
        bucket, pixels = Bucket.of(lengths, self._group), self._pixels
        graph = self.cache.find(bucket, lambda: _Buffers(bucket, given, pixels, self._kernel))
        if graph is None:
            return None
        own = graph.buffers
        own.fill(given)
        features = self.cache.run(graph, lambda: self._compute(own.given))
        return features[: given.tokens].clone()
