"""Keys and values that move when windows slide, for all streams of a step together.

A GPU takes longer to launch kernels stream by stream and layer by layer than to run them, and nothing else is left for it to
do meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codecflow.vlm.fused import fused_on
from codecflow.vlm.kv_pool import KVPool
from codecflow.vlm.transfer import all_to_device

Ints = npt.NDArray[np.int64]

_ELEMENTS = 2**24
"""Keys that are copied at a time, unless those of one layer are more: 64 MiB in float32."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The tokens before every video, and their keys and values at position 0: (layers, tokens, kv_heads, head_dim)."""

    ids: list[int]
    keys: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.ids)


class Moves:
    """Collects the moves of windows that slide, and performs them together.

    All slots are the pool's, (tokens,). Windows may take pages that others have given back since the last `apply`: it reads
    every source before it writes.
    """

    def __init__(self, pool: KVPool, prefix: Prefix, inv_freq: Tensor) -> None:
        self._pool, self._prefix, self._inv_freq = pool, prefix, inv_freq
        self._placed: list[tuple[Ints, int]] = []
        self._carried: list[tuple[Ints, Ints, Ints]] = []
        self._turned: list[tuple[Ints, int]] = []

    def place(self, slots: Ints, position: int) -> None:
        """Writes the prefix to `slots`, its first token at `position`."""
        self._placed.append((slots, position))

    def carry(self, sources: Ints, targets: Ints, distances: Ints) -> None:
        """Copies keys and values from `sources` to `targets`, with each key moved by its number of positions."""
        self._carried.append((sources, targets, distances))

    def turn(self, slots: Ints, distance: int) -> None:
        """Moves keys by `distance` positions where they are."""
        self._turned.append((slots, distance))

    def apply(self) -> None:
        """Performs all moves and forgets them."""
        if self._turned:
            self._turn([slots for slots, _ in self._turned], [distance for _, distance in self._turned])
        if self._placed or self._carried:
            self._copy()
        self._placed, self._carried, self._turned = [], [], []

    def _turn(self, slots: Sequence[Ints], distances: Sequence[int]) -> None:
        pool, device = self._pool, self._pool.shape.device
        each = np.repeat(np.array(distances), [len(own) for own in slots])
        where, table, turn = all_to_device((np.concatenate(slots), *rotations(each, self._inv_freq)), device)
        for part in self._parts(len(where)):
            keys = pool.keys.read(part, where)
            shift_keys(keys, table[:, turn])
            pool.keys.write(part, where, keys)

    def _copy(self) -> None:
        pool, device, tokens = self._pool, self._pool.shape.device, len(self._prefix)
        positions = np.repeat(np.array([position for _, position in self._placed], np.int64), tokens)
        host = (
            np.concatenate([np.zeros(0, np.int64), *(move[0] for move in self._carried)]),
            np.concatenate([*(move[1] for move in self._carried), *(slots for slots, _ in self._placed)]),
            *rotations(np.concatenate([*(move[2] for move in self._carried), positions]), self._inv_freq),
        )
        if not len(host[1]):
            return
        sources, targets, table, turn = all_to_device(host, device)
        for part in self._parts(len(targets)):
            carried = pool.read(sources, part)
            placed = (x[part].repeat(1, len(self._placed), 1, 1) for x in (self._prefix.keys, self._prefix.values))
            keys, values = (torch.cat(pair, dim=1) for pair in zip(carried, placed, strict=True))
            shift_keys(keys, table[:, turn])
            pool.write(targets, keys, values, part)

    def _parts(self, tokens: int) -> list[slice]:
        """The layers, as many at a time as may be copied."""
        shape = self._pool.shape
        count = max(1, _ELEMENTS // max(1, tokens * shape.kv_heads * shape.head_dim))
        return [slice(first, first + count) for first in range(0, shape.layers, count)]


def rotations(distances: Ints, inv_freq: Tensor) -> tuple[Tensor, Ints]:
    """What moves keys by `distances` (tokens,) positions: cosines and sines of the distances that occur, (2, different,
    rotary_dim) float32 with identical halves, and which of them is each token's, (tokens,). `inv_freq`: (rotary_dim / 2,).
    All on the CPU; angles are computed in float64."""
    values, index = np.unique(distances, return_inverse=True)
    angle = torch.from_numpy(values)[:, None] * inv_freq.double()
    return torch.stack([angle.cos(), angle.sin()]).float().repeat(1, 1, 2), index


def shift_keys(keys: Tensor, turns: Tensor) -> None:
    """Moves keys (layers, tokens, kv_heads, head_dim) in place, in float32. `turns`: (2, tokens, rotary_dim), cosines and
    sines of each token's `rotations`.

    Rotary attention (RoFormer, arXiv 2104.09864) depends only on differences of positions: a key rotated for position p
    becomes the key for position p + d by a further rotation by d, whatever p was. A shift that is the same on every axis
    (M-RoPE's time, height and width) is the same rotation for every frequency, whichever axis the frequency belongs to.
    Dimensions beyond the rotary ones are unchanged.
    """
    cos, sin = turns
    rotary = cos.shape[-1]
    turned = keys if rotary == keys.shape[-1] else keys[..., :rotary].contiguous()
    fused_on(keys.device, keys.dtype).rotate(turned.flatten(0, 1), 0, cos, sin, None, 0.0)
    if turned is not keys:
        keys[..., :rotary] = turned
