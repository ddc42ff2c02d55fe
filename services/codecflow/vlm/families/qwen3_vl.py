"""Qwen3-VL (transformers' qwen3_vl): pictures of any shape, M-RoPE, DeepStack, `<1.5 seconds>` before each frame.

The ViT's patch is two pictures deep, and the family's processor pairs the frames of a video. A stream is answered frame by
frame, and a pair would tie a frame's keep mask to that of its neighbour. So each sampled frame is one temporal patch, the
frame repeated as the family does with an image, and its time is its own. The model sees an ordinary video of that many
temporal patches.

The text around frames is that of the family's first processor (transformers 4.57), which vLLM follows too: the template's
`<|vision_start|><|video_pad|><|vision_end|>` gives way to `<1.5 seconds><|vision_start|>...<|vision_end|>` for each frame.
The processor of transformers 5 leaves an outer pair of markers standing around all of it (vllm-project/vllm#46817).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from codecflow.errors import ModelError
from codecflow.grid import TokenGrid
from codecflow.vlm import flops
from codecflow.vlm.attention import FrameLayout, attending
from codecflow.vlm.cache import PackedCache
from codecflow.vlm.pictures import grouped_places, to_patches

from .base import Family, Patches


class Qwen3VL(Family):
    """A frame keeps its shape: its sides become multiples of 32 pixels, by the family's own rule for videos.

    That rule shares a number of pixels among all frames of a video. A stream has no end, so `video_frames` says how many
    frames share them: 80, a window of 40 s at 2 frames/s. (1280x720 then has 13x23 tokens.)
    """

    model_type = "qwen3_vl"
    video_placeholder = "<|vision_start|><|video_pad|><|vision_end|>"
    axes = 3
    video_frames = 80

    def __init__(self, model: Any, tokenizer: Any, processing: Mapping[str, Any]) -> None:
        super().__init__(model, tokenizer, processing)
        vision = self.config.vision_config
        self.patch, self.merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self.depth = int(vision.temporal_patch_size)
        self.levels = 1 + len(vision.deepstack_visual_indexes)
        size = processing.get("size") or {}
        self.fewest, self.most = int(size.get("shortest_edge", 2**17)), int(size.get("longest_edge", 768 * 2**10))
        self._placed = lru_cache(maxsize=16)(self._position_table)

    def grid(self, width: int, height: int) -> TokenGrid:
        rows, columns = self._tokens(width, height)
        return TokenGrid.regular(rows, columns, width, height)

    def _tokens(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tokens. Raises ModelError on a shape that the family does not take."""
        cell = self.patch * self.merge
        try:
            tall, wide = smart_resize(self.video_frames, height, width, self.depth, cell, self.fewest, self.most)
        except ValueError as error:
            raise ModelError(f"pictures of {width}x{height}: {error}") from error
        return tall // cell, wide // cell

    def prepare(self, pixels: npt.NDArray[np.uint8], keep: npt.NDArray[np.bool_]) -> Patches:
        kept = torch.from_numpy(np.flatnonzero(keep)).to(self.device)
        rows, columns = self._tokens(pixels.shape[1], pixels.shape[0])
        cell = self.patch * self.merge
        picture = self.preprocess(pixels, rows * cell, columns * cell, self.device)
        places = grouped_places(kept, columns, self.merge)
        patches = to_patches(picture, self.patch, places[:, 0], places[:, 1]).to(self.dtype)
        return Patches(patches, places, rows * self.merge, columns * self.merge, kept)

    def encode(self, frames: Sequence[Patches]) -> list[Tensor]:
        tower = self.core.visual
        patches = torch.cat([frame.pixels for frame in frames])
        repeated = patches[:, :, None].expand(-1, -1, self.depth, -1, -1).flatten(1)
        learned = torch.cat([self._placed(frame.rows, frame.columns)[self._order(frame)] for frame in frames])
        hidden = tower.patch_embed(repeated) + learned
        turned = tower.rotary_pos_emb(hidden, torch.cat([frame.places for frame in frames]))
        everything = torch.tensor([0, len(hidden)], dtype=torch.int32)  # the layout splits by frame, not the module
        chosen = list(tower.deepstack_visual_indexes)
        further = []
        with attending(FrameLayout(tuple(len(frame.places) for frame in frames))):
            for number, block in enumerate(tower.blocks):
                hidden = block(hidden, cu_seqlens=everything, position_embeddings=turned)
                if number in chosen:
                    further.append(tower.deepstack_merger_list[chosen.index(number)](hidden))
        features = torch.stack([tower.merger(hidden), *further], dim=1)
        return list(torch.split(features, [len(frame.kept) for frame in frames]))

    def _order(self, frame: Patches) -> Tensor:
        """Indices of a frame's patches among those of the whole frame in the order of merging."""
        group = self.merge**2
        return (frame.kept[:, None] * group + torch.arange(group, device=self.device)).flatten()

    def _position_table(self, rows: int, columns: int) -> Tensor:
        """(patches, hidden): learned positions of a whole frame's patches in the order of merging."""
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
        return self.ids(f"<{time_s:.1f} seconds><|vision_start|>"), self.ids("<|vision_end|>")

    def frame_positions(self, grid: TokenGrid, kept: Tensor, before: int, after: int) -> tuple[Tensor, int]:
        """M-RoPE: a frame's tokens share one time, and their row and column count on from there; text counts on all axes."""
        kept = kept.cpu()
        visual = torch.stack([torch.zeros_like(kept), kept // grid.columns, kept % grid.columns]) + before
        behind = before + max(grid.rows, grid.columns)
        text = [torch.arange(count).expand(self.axes, -1) for count in (before, after)]
        return torch.cat([text[0], visual, text[1] + behind], dim=1), behind + after

    def run_text(
        self, embeds: Tensor, positions: Tensor, visual: Tensor, features: Tensor, cache: PackedCache
    ) -> Tensor:
        further = list(features[:, 1:].unbind(1)) or None
        output = self.text(
            inputs_embeds=embeds[None],
            position_ids=positions[:, None],
            visual_pos_masks=None if further is None else visual[None],
            deepstack_visual_embeds=further,
            use_cache=False,
            **{self._keyword: cache},
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden
