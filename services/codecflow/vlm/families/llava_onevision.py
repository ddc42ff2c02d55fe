"""LLaVA-OneVision (transformers' llava_onevision): square pictures, tokens pooled from overlapping patches, no frame tags.

The frames of a video follow each other without separators, and the learned `image_newline` ends the video. A token is the
bilinear pooling of projected patches, two per side where it falls between them: 27x27 patches give 14x14 tokens, and the
middle patch of each side belongs to two tokens. A kept token needs every patch with a nonzero pooling weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from codecflow.errors import ModelError
from codecflow.vlm import flops
from codecflow.vlm.attention import FrameLayout, attending
from codecflow.vlm.inputs import PooledInput

from .base import Family, Patches

_NO_WEIGHT = 1e-6  # smaller pooling weights are rounding errors: a token on a patch does not use the patch next to it


class LlavaOnevision(Family):
    """A frame of any shape is resized to the model's square, as in the family's video processor.

    Where the patch size does not divide the square (27 patches of 14 pixels in 384) the last rows and columns are not used.
    """

    model_type = "llava_onevision"
    video_placeholder = "<video>"

    def __init__(self, model: Any, tokenizer: Any, processing: Mapping[str, Any], precision: str = "auto") -> None:
        super().__init__(model, tokenizer, processing, precision)
        vision = self.config.vision_config
        if vision.model_type != "siglip_vision_model" or self.config.vision_feature_select_strategy != "full":
            raise ModelError(
                "LLaVA-OneVision with another ViT than SigLIP, or some of its patches left out: not supported"
            )
        self.size, self.patch = int(vision.image_size), int(vision.patch_size)
        size = processing.get("size") or {}
        if {int(size.get(side, self.size)) for side in ("height", "width")} != {self.size}:
            raise ModelError(f"the processor's pictures are {size}, but the ViT takes {self.size}x{self.size}")
        self.side = self.size // self.patch
        taps, weights = _pooling(self.side)
        self._spans = tuple((int(first) * self.patch, int(last + 1) * self.patch) for first, last in taps)
        self._taps = _pairs(taps[:, :, None] * self.side, taps).to(self.device)  # (tokens, 4): patches of the frame
        self._weights = _pairs(weights[:, :, None], weights, torch.mul).to(self.device, self.dtype)
        layers, chosen = vision.num_hidden_layers, self.config.vision_feature_layer
        self.chosen = [layer % (layers + 1) for layer in (chosen if isinstance(chosen, list) else [chosen])]

    @cached_property
    def input(self) -> PooledInput:
        return PooledInput(self.preprocess, self.patch, self.size, self._spans)

    def encode(self, frames: Patches) -> Tensor:
        tower, embeddings = self.core.vision_tower, self.core.vision_tower.embeddings
        pixels, places, kept = self.uploaded(frames)
        flat = places[:, 0] * self.side + places[:, 1]
        patches = self.normalised(pixels)
        hidden = (embeddings.patch_embedding(patches).flatten(1) + embeddings.position_embedding(flat))[None]
        states = [hidden]
        with attending(FrameLayout(frames.counts)):
            for layer in tower.encoder.layers[: max(self.chosen)]:
                states.append(layer(states[-1], None))
        projected = self.core.multi_modal_projector(torch.cat([states[layer][0] for layer in self.chosen], dim=-1))
        # Patches ascend within a frame, and frames are in order: one search finds each token's patches among all of them.
        numbers = torch.arange(len(frames.counts), device=self.device) * self.side**2
        packed = flat + self._each(numbers, frames.counts)
        index = torch.searchsorted(packed, self._taps[kept] + self._each(numbers, frames.tokens)[:, None])
        features: Tensor = (projected[index] * self._weights[kept][:, :, None]).sum(1)
        return features[:, None]

    def _each(self, values: Tensor, counts: Sequence[int]) -> Tensor:
        """Each of `values`, repeated as often as `counts` says."""
        repeats = torch.tensor(counts, device=self.device)
        return values.repeat_interleave(repeats, output_size=sum(counts))

    def closing(self) -> Tensor:
        newline: Tensor = self.core.image_newline
        return newline.detach()[None]

    def patches_of(self, tokens: int) -> int:
        return self.side**2

    def vision_flops(self, patches: int, tokens: int) -> int:
        vision = self.config.vision_config
        values: int = vision.num_channels * self.patch**2
        encoder = flops.vit(patches, 0, vision.hidden_size, max(self.chosen), vision.intermediate_size, values)
        merged, hidden = vision.hidden_size * len(self.chosen), self.text_config.hidden_size
        return encoder + flops.linear(patches, merged, hidden, hidden)


def _pooling(side: int) -> tuple[Tensor, Tensor]:
    """The patches that each token of one side is pooled from, ascending, and their weights: (tokens, 2) each.

    Derived from torch's own bilinear interpolation of the unit vectors. A patch of zero weight is replaced by its neighbour.
    """
    tokens = math.ceil(side / 2)
    matrix = interpolate(torch.eye(side)[None, None], (tokens, side), mode="bilinear")[0, 0]
    weights, taps = matrix.topk(2, dim=1)
    touched = weights > _NO_WEIGHT
    taps, order = torch.where(touched, taps, taps[:, :1]).sort(dim=1)
    return taps, (weights * touched).gather(1, order)


def _pairs(rows: Tensor, columns: Tensor, join: Any = torch.add) -> Tensor:
    """`rows`: (tokens, 2, 1), `columns`: (tokens, 2) of one side -> (tokens * tokens, 4) of the square, row by row."""
    joined: Tensor = join(rows[:, None], columns[None, :, None, :])
    return joined.flatten(2).flatten(0, 1)
