"""Model input pictures with the same values as transformers' own processors: resized on the CPU, normalised on the model's
device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from codecflow.vlm.dense import Dense

_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as in processor files


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resampling and normalisation of a checkpoint. `mean`, `std`: one per channel, of values scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resampling: str = "bicubic"
    scale: float = 1 / 255

    @staticmethod
    def of(processing: Mapping[str, Any]) -> Preprocessing:
        """From a checkpoint's preprocessor file; missing values are the processors' defaults."""
        return Preprocessing(
            mean=tuple(processing.get("image_mean") or (0.48145466, 0.4578275, 0.40821073)),
            std=tuple(processing.get("image_std") or (0.26862954, 0.26130258, 0.27577711)),
            resampling=_RESAMPLING.get(processing.get("resample", 3), "bicubic"),
            scale=float(processing.get("rescale_factor", 1 / 255)),
        )

    def resize(self, rgb: npt.NDArray[np.uint8], height: int, width: int) -> Tensor:
        """`rgb`: (h, w, 3) uint8 -> (height, width, 3) uint8 on the CPU, resized with antialiasing like in the
        processors."""
        picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
        if picture.shape[-2:] != (height, width):
            # Interleaved channels give the same values as planes in a quarter to half of the time.
            picture = interpolate(picture, (height, width), mode=self.resampling, antialias=True)
        return picture[0].permute(1, 2, 0).contiguous()

    def normalise(self, values: Tensor) -> Tensor:
        """`values`: (..., 3, height, width), from 0 to 255 -> float32, normalised with the checkpoint's mean and
        deviation."""
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
    """A convolution whose stride equals its kernel, on patches of that size: (patches, ...) -> (patches, channels).

    It is computed as the linear map of each patch that it is: convolution kernels are slow on pictures this small.
    """
    return Dense(convolution.weight.flatten(1), convolution.bias)(patches.flatten(1))


@lru_cache(maxsize=64)
def grouped_places(rows: int, columns: int, merge: int) -> npt.NDArray[np.int64]:
    """The patches of all tokens of a grid, `merge` x `merge` for each.

    (tokens, merge * merge, 2): row and column in the patch grid, row by row within a token. Read-only.
    """
    corners = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1) * merge
    steps = np.stack(np.divmod(np.arange(merge**2), merge), axis=1)
    places: npt.NDArray[np.int64] = corners[:, None] + steps
    places.flags.writeable = False
    return places


def gather_patches(
    picture: npt.NDArray[np.uint8], places: npt.NDArray[np.int64], patches: npt.NDArray[np.uint8]
) -> None:
    """Writes the patches of `picture` (height, width, channels) at row and column `places` (patches, 2) to `patches`
    (patches, size, size, channels). Pixels beyond the last whole patch are ignored."""
    size, channels = patches.shape[1], picture.shape[2]
    rows, columns = picture.shape[0] // size, picture.shape[1] // size
    filled = np.ascontiguousarray(picture[: rows * size, : columns * size])
    line = f"V{size * channels}"  # a patch's part of a row of pixels: copied at once, in half the time
    lines = (places[:, :1] * size + np.arange(size)) * columns + places[:, 1:]
    filled.reshape(-1).view(line).take(lines.ravel(), out=patches.reshape(-1).view(line), mode="clip")
