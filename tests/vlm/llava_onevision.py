"""LLaVA-OneVision's case: 7x7 patches are pooled to 4x4 tokens, so that tokens share the middle patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from codecflow.vlm.work import Frame

from .cases import Case


class LlavaOnevisionCase(Case):
    name = "llava_onevision"
    sizes: ClassVar[dict[str, Any]] = {
        "image_size": 100,  # patches cover 98 of them
        "hidden": 48,
        "heads": 4,
        "kv_heads": 2,
        "layers": 3,
        "vision_hidden": 32,
    }
    width, height = 100, 100

    @torch.inference_mode()
    def stock_logits(self, frames: Sequence[Frame], prompt: str, answer: Sequence[int] = ()) -> Tensor:
        video = (len(frames) * self.tokens + 1) * "<video>"  # as in LlavaOnevisionProcessor: one more for the newline
        text = f"<|im_start|>user\n{video}\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        ids = torch.tensor([[*self.family.tokenizer(text, add_special_tokens=False)["input_ids"], *answer]])
        output = self.stock(input_ids=ids, pixel_values_videos=self.normalised(frames)[None])
        return output.logits[0, -1 - len(answer) :]

    def masked_features(self, frame: Frame) -> Tensor:
        visible = torch.from_numpy(self.seen(frame).ravel())
        video = self.normalised([frame])[None]
        features = self.with_visible(visible, lambda: self.masked.model.get_video_features(video))
        return features.pooler_output[0][: self.tokens][torch.from_numpy(frame.keep)][:, None]

    def seen(self, frame: Frame) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(patches, patches) bool: those that the model's own pooling of kept tokens depends on."""
        patches = torch.ones(1, 1, 7, 7, requires_grad=True)
        pooled = interpolate(patches, (4, 4), mode="bilinear").flatten()
        pooled[torch.from_numpy(frame.keep)].sum().backward()
        assert patches.grad is not None
        return (patches.grad[0, 0] > 1e-6).numpy()
