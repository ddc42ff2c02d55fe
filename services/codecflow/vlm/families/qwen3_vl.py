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
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from codecflow.vlm import flops
from codecflow.vlm.decoder import Packed
from codecflow.vlm.dense import Dense
from codecflow.vlm.encoder import Block, Encoder, TowerInput
from codecflow.vlm.inputs import ShapedInput
from codecflow.vlm.preprocessing import project_patches

from .base import Family, Ints, Patches

Floats = npt.NDArray[np.float32]


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
        self.group = self.merge**2
        self.levels = 1 + len(vision.deepstack_visual_indexes)
        self.encoder: Encoder = _encoder(self.core.visual)
        size = processing.get("size") or {}
        self.fewest, self.most = int(size.get("shortest_edge", 2**17)), int(size.get("longest_edge", 768 * 2**10))
        self._placed = lru_cache(maxsize=16)(self._position_table)

    @cached_property
    def input(self) -> ShapedInput:
        sizes = self.video_frames, self.fewest, self.most
        return ShapedInput(self.preprocess, self.patch, self.merge, self.depth, *sizes)

    def tower_input(self, frames: Patches) -> TowerInput:
        """`corners`, `weights`: (patches, corners) rows in the table of positions between which a patch lies, and their
        weights; `place`: (patches, 2) its row and column."""
        group = np.arange(self.group)
        tables = [self._placed(*shape) for shape in frames.shapes]
        kept = np.split(frames.kept, np.cumsum(frames.tokens)[:-1])
        order = [(own[:, None] * self.group + group).ravel() for own in kept]
        corners, weights = (
            np.concatenate([table[part][own] for table, own in zip(tables, order, strict=True)]) for part in (0, 1)
        )
        arrays = {"corners": corners, "weights": weights, "place": frames.places}
        return TowerInput.of(frames.pixels, arrays, frames.counts, len(frames.kept))

    def features(self, given: TowerInput) -> Tensor:
        tower = self.core.visual
        pixels = self.normalised(given.pixels)[:, :, None].expand(-1, -1, self.depth, -1, -1)
        corners, weights = given.arrays["corners"], given.arrays["weights"]
        learned = tower.pos_embed(corners[:, 0]) * weights[:, :1]
        for number in range(1, corners.shape[1]):  # one by one: all at once would take several times the memory
            learned.addcmul_(tower.pos_embed(corners[:, number]), weights[:, number, None])
        hidden = project_patches(tower.patch_embed.proj, pixels) + learned.to(self.dtype)
        *further, last = self.encoder(hidden, given.layout, tower.rotary_pos_emb(hidden, given.arrays["place"]))
        mergers = zip(tower.deepstack_merger_list, further, strict=True)
        return torch.stack([tower.merger(last), *(merger(state) for merger, state in mergers)], dim=1)

    def _position_table(self, rows: int, columns: int) -> tuple[Ints, Floats]:
        """For the patches of a whole frame, in merge order: (patches, corners) rows of the learned table of positions
        between which each lies, and their weights."""
        tower = self.core.visual
        indices, weights = get_vision_interpolation_indices_and_weights(
            torch.tensor([[1, rows, columns]]),
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=self.merge,
        )
        return indices.numpy(), weights.numpy()

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


def _encoder(tower: Any) -> Encoder:
    """All blocks of the tower, for the states that enter the language model's first layers (DeepStack), and the last."""
    blocks = [
        Block(
            norms=(block.norm1, block.norm2),
            qkv=Dense(block.attn.qkv.weight, block.attn.qkv.bias),
            out=Dense(block.attn.proj.weight, block.attn.proj.bias),
            up=Dense(block.mlp.linear_fc1.weight, block.mlp.linear_fc1.bias),
            down=Dense(block.mlp.linear_fc2.weight, block.mlp.linear_fc2.bias),
        )
        for block in tower.blocks
    ]
    states = [1 + number for number in tower.deepstack_visual_indexes]
    return Encoder(blocks, tower.blocks[0].attn.num_heads, [*states, len(blocks)], tower.blocks[0].mlp.act_fn)
