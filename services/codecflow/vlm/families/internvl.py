"""InternVL 3 and 3.5 (transformers' internvl): square pictures, 2x2 patches per token, `Frame1: <img>...</img>` per
frame."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codecflow.errors import ModelError
from codecflow.vlm import flops
from codecflow.vlm.attention import FrameLayout, attending
from codecflow.vlm.dense import in_few_sizes
from codecflow.vlm.encoder import Block, Encoder, TowerInput
from codecflow.vlm.inputs import FixedInput
from codecflow.vlm.preprocessing import project_patches

from .base import Family, Patches


class InternVL(Family):
    """A frame of any shape is resized to the model's square, as in the family's video processor."""

    model_type = "internvl"
    video_placeholder = "<video>"
    frame_cycle = 100
    """Number of frames after which frame numbers restart at 1: streams have no end, the family was trained on small numbers,
    and each digit costs a token per frame. Measurements: model-families.md."""

    def __init__(self, model: Any, tokenizer: Any, processing: Mapping[str, Any], precision: str = "auto") -> None:
        super().__init__(model, tokenizer, processing, precision)
        vision = self.config.vision_config
        size = processing.get("size") or {}
        self.height = int(size.get("height", vision.image_size[0]))
        self.width = int(size.get("width", vision.image_size[1]))
        self.patch = int(vision.patch_size[0])
        self.merge = round(1 / float(self.config.downsample_ratio))
        cell = self.patch * self.merge
        if self.height % cell or self.width % cell or vision.patch_size[0] != vision.patch_size[1]:
            raise ModelError(f"model input {self.width}x{self.height}: {cell} pixel tokens do not divide it")
        self.rows, self.columns = self.height // cell, self.width // cell
        layer, layers = self.config.vision_feature_layer, vision.num_hidden_layers
        self.depth: int = layers if layer == -1 else layer % (layers + 1)  # state 0 is the input of the first layer
        self._positions = self._position_table()
        self.group = self.merge**2
        self.encoder = _encoder(self.core.vision_tower, self.depth)

    @cached_property
    def input(self) -> FixedInput:
        return FixedInput(self.preprocess, self.patch, self.merge, self.width, self.height)

    def tower_input(self, frames: Patches) -> TowerInput:
        """Each frame is its class token, then its patches. `source`: the class token (0) or the patch (from 1) that a row
        shows; `place`: its row in the table of positions; `back`: the row of each patch."""
        count = len(frames.pixels)
        back = np.arange(count) + np.repeat(np.arange(1, 1 + len(frames.counts)), frames.counts)
        source, place = np.zeros((2, count + len(frames.counts)), np.int64)
        source[back] = 1 + np.arange(count)
        place[back] = 1 + frames.places[:, 0] * self.columns * self.merge + frames.places[:, 1]
        arrays = {"source": source, "place": place, "back": back}
        return TowerInput.of(frames.pixels, arrays, [1 + own for own in frames.counts], len(frames.kept))

    def features(self, given: TowerInput) -> Tensor:
        tower = self.core.vision_tower
        embeddings = tower.embeddings
        patches = project_patches(embeddings.patch_embeddings.projection, self.normalised(given.pixels))
        rows = torch.cat([embeddings.cls_token[0], patches])[given.arrays["source"]]
        if self._positions is not None:
            rows = rows + self._positions[given.arrays["place"]]
        hidden = self._encoded(tower, rows, given)[given.arrays["back"]]
        if self.config.vision_feature_layer == -1:
            hidden = tower.layernorm(hidden)
        groups = hidden.view(-1, self.merge, self.merge, hidden.shape[-1])  # complete merge groups only
        merged = self.core.pixel_shuffle(groups, scale_factor=self.config.downsample_ratio).flatten(1)
        features: Tensor = in_few_sizes(self.core.multi_modal_projector, merged)
        return features[:, None]

    def _encoded(self, tower: Any, rows: Tensor, given: TowerInput) -> Tensor:
        if self.encoder is not None:
            return self.encoder(rows, given.layout)[0]
        assert isinstance(given.layout, FrameLayout)
        with attending(given.layout):
            for block in tower.encoder.layer[: self.depth]:
                rows = block(rows[None])[0]
        return rows

    def _position_table(self) -> Tensor | None:
        """(1 + patches, hidden): learned positions of the class token and of every patch, interpolated like the model's
        own."""
        embeddings = self.core.vision_tower.embeddings
        if embeddings.position_embeddings is None:
            return None
        patches = self.rows * self.columns * self.merge**2
        like = embeddings.position_embeddings.new_zeros(1, 1 + patches, self.config.vision_config.hidden_size)
        table: Tensor = embeddings.interpolate_pos_encoding(like, self.height, self.width)
        return table[0].detach()

    def patches_of(self, tokens: int) -> int:
        return tokens * self.merge**2

    def vision_flops(self, patches: int, tokens: int) -> int:
        vision = self.config.vision_config
        values: int = vision.num_channels * self.patch**2
        encoder = flops.vit(patches, 1, vision.hidden_size, self.depth, vision.intermediate_size, values)
        merged, hidden = vision.hidden_size * self.merge**2, self.text_config.hidden_size
        return encoder + flops.linear(tokens, merged, hidden, hidden)

    def frame_text(self, index: int, time_s: float) -> tuple[list[int], list[int]]:
        start = getattr(self.tokenizer, "start_image_token", "<img>")
        end = getattr(self.tokenizer, "end_image_token", "</img>")
        return self.ids(f"Frame{index % self.frame_cycle + 1}: {start}"), self.ids(f"{end}\n")

    def after_video(self, text: str) -> str:
        return text.removeprefix("\n")


def _encoder(tower: Any, depth: int) -> Encoder | None:
    """The first `depth` blocks of an InternViT; None where they normalise queries and keys."""
    layers = tower.encoder.layer
    if tower.config.use_qk_norm or not all(isinstance(layer.layernorm_before, nn.LayerNorm) for layer in layers):
        return None
    blocks = [
        Block.of(
            (layer.layernorm_before, layer.layernorm_after),
            layer.attention,
            layer.attention.projection_layer,
            layer.mlp,
            (layer.lambda_1.detach(), layer.lambda_2.detach()),
        )
        for layer in layers
    ]
    return Encoder(blocks, layers[0].attention.num_heads, (depth,), layers[0].mlp.activation_fn)
