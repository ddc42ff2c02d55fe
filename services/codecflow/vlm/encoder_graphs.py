"""A vision tower's blocks from CUDA graphs (graphs.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from codecflow.vlm.attention import FixedFrames, FrameLayout
from codecflow.vlm.encoder import Encoder
from codecflow.vlm.graphs import GraphCache, empty_sequences, fill_sequences, power, stepped
from codecflow.vlm.kernels import Kernel, choose_kernels

_MOST_PATCHES = 8192
"""Frames of two seconds of one or two streams; more take a GPU longer than their launches take the host."""


class Bucket(NamedTuple):
    """Sizes to which a forward is padded: patches, frames, patches of the largest frame."""

    patches: int
    frames: int
    longest: int

    @staticmethod
    def of(lengths: Sequence[int]) -> Bucket:
        patches = stepped(sum(lengths) + 1)
        return Bucket(patches, power(len(lengths) + 1, 8), power(max(*lengths, patches - sum(lengths)), 64))


class _Buffers:
    """The inputs of one bucket's forward."""

    def __init__(self, bucket: Bucket, like: Tensor, kernel: Kernel) -> None:
        self.hidden = like.new_zeros(bucket.patches, like.shape[1])
        self.sequences = empty_sequences(bucket.frames, bucket.longest, bucket.patches, like.device)
        self.layout = FixedFrames(self.sequences, kernel)

    def fill(self, hidden: Tensor, lengths: Sequence[int]) -> None:
        """Rows of padding keep earlier values: all that matters is that they are finite."""
        self.hidden[: len(hidden)].copy_(hidden)
        fill_sequences(self.sequences, FrameLayout(lengths).sequences(hidden.device), len(self.hidden))


class EncoderGraphs:
    """Runs a vision tower's blocks with `kernel`, from graphs where that is faster."""

    def __init__(self, encoder: Encoder, kernel: Kernel) -> None:
        self._encoder, self._kernel = encoder, kernel
        weights = list(encoder.weights())
        self.cache: GraphCache[Bucket, _Buffers] = GraphCache(weights[0].device, weights, _MOST_PATCHES)

    @staticmethod
    def of(encoder: Encoder) -> EncoderGraphs | None:
        """None where there is no kernel: attention by scaled_dot_product_attention depends on sizes."""
        weight = next(encoder.weights())
        kernel = choose_kernels(weight.device, weight.dtype, encoder.heads, encoder.heads, encoder.head_dim).ragged
        return None if kernel is None else EncoderGraphs(encoder, kernel)

    def __call__(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        """As `Encoder.__call__`."""
        if len(hidden) >= self.cache.limit:
            return self._encoder(hidden, lengths)
        bucket = Bucket.of(lengths)
        graph = self.cache.find(bucket, lambda: _Buffers(bucket, hidden, self._kernel))
        if graph is None:
            return self._encoder(hidden, lengths)
        own = graph.buffers
        own.fill(hidden, lengths)
        return self.cache.run(graph, lambda: self._encoder.blocks(own.hidden, own.layout))[: len(hidden)].clone()
