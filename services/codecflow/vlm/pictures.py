"""Pictures as a model wants them, computed as transformers' own processors do it, on whatever device the model is on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate, linear

_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as processors' files spell them


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resampling and normalisation of a checkpoint. `mean`, `std`: one a channel, of values scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resampling: str = "bicubic"
    scale: float = 1 / 255

    @staticmethod
    def of(processing: Mapping[str, Any]) -> Preprocessing:
        """From a checkpoint's preprocessor file; what it leaves out is as the processors' defaults have it."""
        return Preprocessing(
            mean=tuple(processing.get("image_mean") or (0.48145466, 0.4578275, 0.40821073)),
            std=tuple(processing.get("image_std") or (0.26862954, 0.26130258, 0.27577711)),
            resampling=_RESAMPLING.get(processing.get("resample", 3), "bicubic"),
            scale=float(processing.get("rescale_factor", 1 / 255)),
        )

    def __call__(self, pixels: npt.NDArray[np.uint8], height: int, width: int, device: torch.device) -> Tensor:
        """`pixels`: (h, w, 3) uint8 RGB -> (3, height, width) float32: resized with antialiasing to 8 bits, normalised."""
        return self.normalise(self.resize(pixels, height, width, device))

    def resize(self, pixels: npt.NDArray[np.uint8], height: int, width: int, device: torch.device) -> Tensor:
        """`pixels`: (h, w, 3) uint8 RGB -> (3, height, width), whole numbers from 0 to 255, uint8 or float32."""
        picture = torch.from_numpy(np.ascontiguousarray(pixels)).to(device, non_blocking=True).permute(2, 0, 1)[None]
        if picture.shape[-2:] == (height, width):
            return picture[0]
        if picture.is_cuda:  # as torchvision does it: 8-bit kernels exist on the CPU only
            resized = interpolate(picture.float(), (height, width), mode=self.resampling, antialias=True)
            return resized[0].round_().clamp_(0, 255)
        return interpolate(picture.contiguous(), (height, width), mode=self.resampling, antialias=True)[0]

    def normalise(self, values: Tensor) -> Tensor:
        """`values`: (..., 3, height, width), from 0 to 255 -> float32, with the checkpoint's mean and deviation."""
        mean, std = _constants(self, values.device)
        return (values.float() - mean) / std


@lru_cache(maxsize=16)
def _constants(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of values from 0 to 255, (3, 1, 1) each: copied to a GPU once."""
    mean, std = (
        torch.tensor(x, device=device).view(3, 1, 1) / preprocessing.scale
        for x in (preprocessing.mean, preprocessing.std)
    )
    return mean, std


def project_patches(convolution: Any, patches: Tensor) -> Tensor:
    """A convolution whose stride is its kernel, on patches of that size: (patches, ...) -> (patches, channels).

    It is a linear map of each patch, which is how it is computed: convolution kernels are slow on pictures this small.
    """
    return linear(patches.flatten(1), convolution.weight.flatten(1), convolution.bias)


def grouped_places(tokens: Tensor, columns: int, merge: int) -> Tensor:
    """The patches of `tokens` (tokens,), each a group of `merge` x `merge`, in a grid of `columns` tokens a row.

    (tokens * merge * merge, 2) int64: row and column in the patch grid, group by group, row by row within a group.
    """
    step = torch.arange(merge, device=tokens.device)
    corners = torch.stack([tokens // columns, tokens % columns], dim=1) * merge
    return (corners[:, None] + torch.cartesian_prod(step, step)).flatten(0, 1)


def to_patches(picture: Tensor, size: int, rows: Sequence[int] | Tensor, columns: Sequence[int] | Tensor) -> Tensor:
    """The patches of `picture` (channels, height, width) at the given places: (patches, channels, size, size)."""
    channels, height, width = picture.shape
    grid = picture.view(channels, height // size, size, width // size, size)
    index = [torch.as_tensor(x, device=picture.device) for x in (rows, columns)]
    return grid[:, index[0], :, index[1], :]
