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

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from codecflow.errors import ModelError
from codecflow.vlm import flops
from codecflow.vlm.dense import in_few_sizes
from codecflow.vlm.encoder import Block, Encoder, TowerInput
from codecflow.vlm.inputs import PooledInput
from codecflow.vlm.preprocessing import project_patches

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
        self._taps = _pairs(taps[:, :, None] * self.side, taps).numpy()  # (tokens, 4): patches of the frame
        self._weights = _pairs(weights[:, :, None], weights, torch.mul).numpy()
        layers, chosen = vision.num_hidden_layers, self.config.vision_feature_layer
        self.chosen = [layer % (layers + 1) for layer in (chosen if isinstance(chosen, list) else [chosen])]
        self.encoder: Encoder = _encoder(self.core.vision_tower, self.chosen)

    @cached_property
    def input(self) -> PooledInput:
        return PooledInput(self.preprocess, self.patch, self.size, self._spans)

    def tower_input(self, frames: Patches) -> TowerInput:
        """`place`: (patches,) row in the table of positions; `taps`, `weights`: (tokens, 4) the patches that a token is
        pooled from, and their weights."""
        place = frames.places[:, 0] * self.side + frames.places[:, 1]
        # Patches ascend within a frame, and frames are in order: one search finds each token's patches among all of them.
        first = np.arange(len(frames.counts)) * self.side**2
        packed = place + np.repeat(first, frames.counts)
        taps = np.searchsorted(packed, self._taps[frames.kept] + np.repeat(first, frames.tokens)[:, None])
        arrays = {"place": place, "taps": taps, "weights": self._weights[frames.kept]}
        return TowerInput.of(frames.pixels, arrays, frames.counts, len(frames.kept))

    def features(self, given: TowerInput) -> Tensor:
        embeddings = self.core.vision_tower.embeddings
        patches = project_patches(embeddings.patch_embedding, self.normalised(given.pixels))
        hidden = patches + embeddings.position_embedding(given.arrays["place"])
        states = self.encoder(hidden, given.layout)
        projected = in_few_sizes(self.core.multi_modal_projector, torch.cat(states, dim=-1))
        weights = given.arrays["weights"].to(self.dtype)
        features: Tensor = (projected[given.arrays["taps"]] * weights[:, :, None]).sum(1)
        return features[:, None]

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


def _encoder(tower: Any, states: Sequence[int]) -> Encoder:
    """The blocks of a SigLIP tower, for `states`."""
    layers = tower.encoder.layers
    blocks = [
        Block.of((layer.layer_norm1, layer.layer_norm2), layer.self_attn, layer.self_attn.out_proj, layer.mlp)
        for layer in layers
    ]
    return Encoder(blocks, layers[0].self_attn.num_heads, states, layers[0].mlp.activation_fn)


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
