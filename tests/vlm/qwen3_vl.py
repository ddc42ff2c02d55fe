"""Qwen3-VL's case: pictures that are not square, positions on three axes, features at three levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from codecflow.vlm.work import Frame

from .cases import Case


class Qwen3VLCase(Case):
    name = "qwen3_vl"
    sizes: ClassVar[dict[str, Any]] = {
        "hidden": 64,
        "heads": 4,
        "kv_heads": 2,
        "layers": 3,
        "vision_hidden": 32,
        "learned_side": 5,
    }
    width, height = 128, 96  # 4 x 3 tokens

    def video(self, frames: Sequence[Frame]) -> dict[str, Tensor]:
        """Qwen3VLVideoProcessor's format, with a pair for each frame: patches in groups of 2x2, (channel, time, y, x)."""
        pictures = self.normalised(frames)
        rows, columns = self.height // 16, self.width // 16
        split = pictures.view(len(frames), 3, rows // 2, 2, 16, columns // 2, 2, 16)
        patches = split.permute(0, 2, 5, 3, 6, 1, 4, 7)  # frame, group, index in the group, channel, y, x
        pairs = torch.stack([patches, patches], dim=6).reshape(len(frames) * rows * columns, -1)
        return {"pixel_values_videos": pairs, "video_grid_thw": torch.tensor([[len(frames), rows, columns]])}

    @torch.inference_mode()
    def stock_logits(self, frames: Sequence[Frame], prompt: str, answer: Sequence[int] = ()) -> Tensor:
        pads = self.tokens * "<|video_pad|>"
        video = "".join(f"<{f.time_s:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for f in frames)
        text = f"<|im_start|>user\n{video}{prompt}<|im_end|>\n<|im_start|>assistant\n"
        ids = torch.tensor([[*self.family.tokenizer(text, add_special_tokens=False)["input_ids"], *answer]])
        kinds = 2 * (ids == self.stock.config.video_token_id)
        output = self.stock(input_ids=ids, mm_token_type_ids=kinds, **self.video(frames))
        return output.logits[0, -1 - len(answer) :]

    def masked_features(self, frame: Frame) -> Tensor:
        visible = torch.from_numpy(np.repeat(frame.keep, 4))
        output = self.with_visible(visible, lambda: self.masked.model.get_video_features(**self.video([frame])))
        further = [level[0] if isinstance(level, tuple) else level for level in output.deepstack_features]
        levels = torch.stack([output.pooler_output[0], *further], dim=1)
        return levels[torch.from_numpy(frame.keep)]
