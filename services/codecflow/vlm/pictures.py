"""Pictures as a model wants them, computed as transformers' own processors do it, on whatever device the model is on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

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
        picture = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(2, 0, 1)[None]
        if picture.shape[-2:] != (height, width):
            if picture.is_cuda:  # as torchvision does it: 8-bit kernels exist on the CPU only
                resized = interpolate(picture.float(), (height, width), mode=self.resampling, antialias=True)
                picture = resized.round().clamp(0, 255)
            else:
                picture = interpolate(picture.contiguous(), (height, width), mode=self.resampling, antialias=True)
        mean, std = (torch.tensor(x, device=device).view(3, 1, 1) / self.scale for x in (self.mean, self.std))
        return (picture[0].float() - mean) / std


def to_patches(picture: Tensor, size: int, rows: Sequence[int] | Tensor, columns: Sequence[int] | Tensor) -> Tensor:
    """The patches of `picture` (channels, height, width) at the given places: (patches, channels, size, size)."""
    channels, height, width = picture.shape
    grid = picture.view(channels, height // size, size, width // size, size)
    index = [torch.as_tensor(x, device=picture.device) for x in (rows, columns)]
    return grid[:, index[0], :, index[1], :]
