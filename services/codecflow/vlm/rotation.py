"""Moving rotary keys to other positions.

Rotary attention (RoFormer, arXiv 2104.09864) depends on differences of positions only: a key rotated for position p becomes
the key for position p + d by a further rotation by d, whatever p was. A shift that is the same on every axis (M-RoPE's
time, height and width) is the same rotation for every frequency, whichever axis the frequency belongs to.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shift_keys(keys: Tensor, distance: int, inv_freq: Tensor) -> Tensor:
    """`keys`: (..., head_dim), rotated in halves as transformers does; `inv_freq`: (rotary_dim / 2,),
    on the CPU.

    Computed in float32, with angles taken in float64; returned in the dtype of `keys`. Dimensions beyond the rotary ones
    pass through.
    """
    if distance == 0:
        return keys.clone()
    half = inv_freq.shape[0]
    angle = distance * inv_freq.double()
    cos, sin = (x.to(keys.device, torch.float32) for x in (angle.cos(), angle.sin()))
    first, second, rest = keys.float().tensor_split([half, 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(keys.dtype)
