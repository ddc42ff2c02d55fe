"""Qwen3-VL (transformers' qwen3_vl): pictures of any shape, M-RoPE, DeepStack, `<1.5 seconds>` before each frame.

The ViT's patch spans two pictures, and the family's processor pairs the frames of a video. Streams are processed frame by
frame, and a pair would tie a frame's keep mask to that of its neighbour. So each sampled frame is one temporal patch, the
frame repeated as the family does with an image, with its own time. To the model this is an ordinary video with that many
temporal patches.

The text around frames follows the family's first processor (transformers 4.57), as does vLLM: the template's
`<|vision_start|><|video_pad|><|vision_end|>` is replaced by `<1.5 seconds><|vision_start|>...<|vision_end|>` for each frame.
The processor of transformers 5 leaves an additional outer pair of markers (vllm-project/vllm#46817).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from codecflow.vlm import flops
from codecflow.vlm.attention import FrameLayout, attending
from codecflow.vlm.decoder import Packed
from codecflow.vlm.inputs import ShapedInput

from .base import Family, Ints, Patches


class Qwen3VL(Family):
    """A frame keeps its aspect ratio: its sides become multiples of 32 pixels, by the family's own rule for videos.

    That rule divides a number of pixels among all frames of a video. A stream has no end, so `video_frames` sets the number
    of frames: 80, a window of 40 s at 2 frames/s. (1280x720 then has 13x23 tokens.)
    """

    model_type = "qwen3_vl"
    video_placeholder = "<|vision_start|><|video_pad|><|vision_end|>"
    axes = 3
    video_frames = 80
    cycle_s = 3600.0
    """Seconds after which the times before frames restart at 0: streams have no end, unlike the videos in training."""

    def __init__(self, model: Any, tokenizer: Any, processing: Mapping[str, Any], precision: str = "auto") -> None:
        super().__init__(model, tokenizer, processing, precision)
        vision = self.config.vision_config
        self.patch, self.merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self.depth = int(vision.temporal_patch_size)
        self.levels = 1 + len(vision.deepstack_visual_indexes)
        size = processing.get("size") or {}
        self.fewest, self.most = int(size.get("shortest_edge", 2**17)), int(size.get("longest_edge", 768 * 2**10))
        self._placed = lru_cache(maxsize=16)(self._position_table)

    @cached_property
    def input(self) -> ShapedInput:
        sizes = self.video_frames, self.fewest, self.most
        return ShapedInput(self.preprocess, self.patch, self.merge, self.depth, *sizes)

    def encode(self, frames: Patches) -> Tensor:
        tower = self.core.visual
        pixels, places, kept = self.uploaded(frames)
        repeated = self.normalised(pixels)[:, :, None].expand(-1, -1, self.depth, -1, -1).flatten(1)
        order = torch.split(self._order(kept), frames.counts)
        learned = torch.cat([self._placed(*shape)[own] for shape, own in zip(frames.shapes, order, strict=True)])
        hidden = tower.patch_embed(repeated) + learned
        turned = tower.rotary_pos_emb(hidden, places)
        everything = torch.tensor([0, len(hidden)], dtype=torch.int32)  # the layout splits by frame, not the module
        chosen = list(tower.deepstack_visual_indexes)
        further = []
        with attending(FrameLayout(frames.counts)):
            for number, block in enumerate(tower.blocks):
                hidden = block(hidden, cu_seqlens=everything, position_embeddings=turned)
                if number in chosen:
                    further.append(tower.deepstack_merger_list[chosen.index(number)](hidden))
        return torch.stack([tower.merger(hidden), *further], dim=1)

    def _order(self, kept: Tensor) -> Tensor:
        """Indices of the patches of `kept` tokens among those of their whole frame, in merge order."""
        group = self.merge**2
        return (kept[:, None] * group + torch.arange(group, device=self.device)).flatten()

    def _position_table(self, rows: int, columns: int) -> Tensor:
        """(patches, hidden): learned positions of a whole frame's patches, in merge order."""
        tower = self.core.visual
        indices, weights = get_vision_interpolation_indices_and_weights(
            torch.tensor([[1, rows, columns]], device=self.device),
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=self.merge,
        )
        table: Tensor = (tower.pos_embed(indices) * weights[:, :, None]).sum(1).to(self.dtype)
        return table.detach()

    def patches_of(self, tokens: int) -> int:
        return tokens * self.merge**2

    def vision_flops(self, patches: int, tokens: int) -> int:
        vision = self.config.vision_config
        values: int = vision.in_channels * self.depth * self.patch**2
        encoder = flops.vit(patches, 0, vision.hidden_size, vision.depth, vision.intermediate_size, values)
        merged = vision.hidden_size * self.merge**2
        return encoder + self.levels * flops.linear(tokens, merged, merged, vision.out_hidden_size)

    def frame_text(self, index: int, time_s: float) -> tuple[list[int], list[int]]:
        return self.ids(f"<{round(time_s, 1) % self.cycle_s:.1f} seconds><|vision_start|>"), self.ids("<|vision_end|>")

    def cell_positions(self, shape: tuple[int, int], cells: Ints) -> tuple[Ints, int]:
        """M-RoPE: a frame's tokens share one time position; row and column positions count from it."""
        rows, columns = shape
        return np.stack([np.zeros_like(cells), cells // columns, cells % columns]), max(rows, columns)

    def position_ids(self, positions: Tensor) -> Tensor:
        return positions[:, None]

    def text_arguments(self, packed: Packed) -> dict[str, Any]:
        further = list(packed.features[:, 1:].unbind(1))
        if not further:
            return {}
        visual = torch.zeros(len(packed.embeds), dtype=torch.bool, device=self.device)
        visual[packed.visual] = True
        return {"visual_pos_masks": visual[None], "deepstack_visual_embeds": further}
