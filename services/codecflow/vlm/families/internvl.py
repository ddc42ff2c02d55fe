"""InternVL 3 and 3.5 (transformers' internvl): square pictures, 2x2 patches per token, `Frame1: <img>...</img>` per
frame."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from codecflow.errors import ModelError
from codecflow.vlm import flops
from codecflow.vlm.attention import FrameLayout, attending
from codecflow.vlm.dense import in_few_sizes
from codecflow.vlm.encoder import Encoder, TowerInput
from codecflow.vlm.encoder_graphs import EncoderGraphs
from codecflow.vlm.inputs import FixedInput
from codecflow.vlm.kernels import choose_kernels
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
        self.encoder = Encoder.of(self.core.vision_tower, self.depth)
        self._graphs: EncoderGraphs | None = None
        if self.encoder is not None:
            heads = self.encoder.heads
            kernel = choose_kernels(self.device, self.dtype, heads, heads, self.encoder.head_dim).ragged
            if kernel is not None:  # attention by scaled_dot_product_attention depends on sizes
                self._graphs = EncoderGraphs(self.features, self.encoder.weights(), kernel, self.merge**2)
                self.vision_graphs = self._graphs.cache

    @cached_property
    def input(self) -> FixedInput:
        return FixedInput(self.preprocess, self.patch, self.merge, self.width, self.height)

    def encode(self, frames: Patches) -> Tensor:
        given = self.tower_input(frames)
        found = None if self._graphs is None else self._graphs(given)
        return (self.features(given.on(self.device)) if found is None else found)[:, None]

    def tower_input(self, frames: Patches) -> TowerInput:
        """The rows of the ViT for the patches of frames; on the CPU."""
        places = 1 + frames.places[:, 0] * self.columns * self.merge + frames.places[:, 1]
        return TowerInput.of(frames.pixels, frames.counts, places)

    def features(self, given: TowerInput) -> Tensor:
        """(tokens, hidden) of an input on the model's device."""
        tower = self.core.vision_tower
        embeddings = tower.embeddings
        patches = project_patches(embeddings.patch_embeddings.projection, self.normalised(given.pixels))
        rows = torch.cat([embeddings.cls_token[0], patches])[given.source]
        if self._positions is not None:
            rows = rows + self._positions[given.place]
        hidden = self._encoded(tower, rows, given)[given.back]
        if self.config.vision_feature_layer == -1:
            hidden = tower.layernorm(hidden)
        groups = hidden.view(-1, self.merge, self.merge, hidden.shape[-1])  # complete merge groups only
        merged = self.core.pixel_shuffle(groups, scale_factor=self.config.downsample_ratio).flatten(1)
        features: Tensor = in_few_sizes(self.core.multi_modal_projector, merged)
        return features

    def _encoded(self, tower: Any, rows: Tensor, given: TowerInput) -> Tensor:
        if self.encoder is not None:
            return self.encoder(rows, given.layout)
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
