"""Keys, or values, of all layers and slots, as the pool stores them: in the model's dtype, or in 8 bits.

In 8 bits there is a scale per token and head, so that outliers are not clipped and do not coarsen their neighbours. Readers
get the model's own precision, in which attention is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codecflow.vlm.fused import fused_on

E4M3 = torch.float8_e4m3fn
SCALE_BYTES = 4
"""Size of the scale of each token and head in 8 bits."""


@dataclass(frozen=True, slots=True)
class KVTensor:
    """`stored`: (layers, slots, kv_heads, head_dim), of the model's dtype, or uint8 that hold e4m3: torch can move bytes on
    every device, but not 8-bit floating point. `scales`: (layers, slots, kv_heads) float32, or None without scaling.
    `dtype`: of the values that are read and written."""

    stored: Tensor
    scales: Tensor | None
    dtype: torch.dtype

    def read(self, layers: int | slice, slots: Tensor) -> Tensor:
        """(layers, slots, kv_heads, head_dim), without the first axis for one layer."""
        found = self.stored[layers].index_select(-3, slots)
        return found if self.scales is None else self._expanded(found, self.scales[layers].index_select(-2, slots))

    def read_pages(self, layer: int, pages: Tensor, size: int) -> Tensor:
        """The contents of `pages` (pages,) of `size` slots each: (pages * size, kv_heads, head_dim), contiguous. Whole pages
        are copied, which is faster than token by token."""
        found = _paged(self.stored[layer], size).index_select(0, pages).flatten(0, 1)
        if self.scales is None:
            return found
        return self._expanded(found, _paged(self.scales[layer], size).index_select(0, pages).flatten(0, 1))

    def write(self, layers: int | slice, slots: Tensor, values: Tensor) -> None:
        """`values`: shaped like the return value of `read`."""
        if self.scales is None:
            self.stored[layers].index_copy_(-3, slots, values)
            return
        rows = values.reshape(-1, values.shape[-1])
        packed, scales = fused_on(rows.device, rows.dtype).quantised(rows)
        self.stored[layers].index_copy_(-3, slots, packed.view(torch.uint8).view(values.shape))
        self.scales[layers].index_copy_(-2, slots, scales.view(values.shape[:-1]))

    def layer(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """For a kernel that reads in place: (slots, kv_heads, head_dim), e4m3 if in 8 bits, and scales (slots, kv_heads)."""
        if self.scales is None:
            return self.stored[layer], None
        return self.stored[layer].view(E4M3), self.scales[layer]

    def _expanded(self, packed: Tensor, scales: Tensor) -> Tensor:
        rows = packed.view(-1, packed.shape[-1]).view(E4M3)
        return fused_on(rows.device, self.dtype).expanded(rows, scales.view(-1, 1), self.dtype).view(packed.shape)


def _paged(stored: Tensor, size: int) -> Tensor:
    return stored.view(-1, size, *stored.shape[1:])
