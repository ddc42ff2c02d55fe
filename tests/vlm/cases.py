"""What the invariants need of each family: a small checkpoint, transformers' own model on it, and two family-specific
methods.

A family's case provides `stock_logits`: the logits of transformers' model for a window of whole frames and a question, from
pixels and text alone; and `masked_features`: the family's own ViT over whole pictures, with attention masked to kept
patches.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForImageTextToText

from codecflow.vlm.families import Family
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny
from codecflow.vlm.work import Frame

_visible: ContextVar[Tensor] = ContextVar("visible")  # (tokens,) bool: what the masked ViT's queries see


def _masked_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **_: Any
) -> Any:
    """Plain attention over whole pictures in which only visible tokens are seen."""
    scores = query @ key.transpose(-1, -2) * scaling
    scores = scores.masked_fill(~_visible.get(), float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("masked_reference", _masked_attention)


def picture_of(family: Family, frame: Frame) -> npt.NDArray[np.uint8]:
    """The model's input (height, width, 3) as far as the frame has it, otherwise black."""
    height, width = size = family.input.size(*frame.size)
    picture, side = np.zeros((height, width, 3), np.uint8), family.patch
    if frame.patches is not None:
        places = family.input.places(np.flatnonzero(frame.keep), size)
        for (row, column), patch in zip(places * side, frame.patches, strict=True):
            picture[row : row + side, column : column + side] = patch
    return picture


def thinned(family: Family, frame: Frame, keep: npt.NDArray[np.bool_]) -> Frame:
    """A completely kept frame that keeps only `keep`, some of its tokens."""
    return replace(frame, keep=keep, patches=family.input.patches(picture_of(family, frame), keep))


class Case(ABC):
    """One family. `width`, `height`: of the pictures in most tests."""

    name: str
    sizes: ClassVar[dict[str, Any]]
    width: int
    height: int

    def __init__(self, folder: Path) -> None:
        self.folder = make_tiny(folder, self.name, **self.sizes)
        self.family = load_model(str(self.folder), "float32", "cpu")
        self.stock = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()
        self.masked = AutoModelForImageTextToText.from_pretrained(
            self.folder, dtype=torch.float32, attn_implementation="masked_reference"
        ).eval()
        self.tokens = self.family.grid(self.width, self.height).tokens

    @cached_property
    def moving(self) -> Any:
        """transformers' model with the attention of oracle.py."""
        return AutoModelForImageTextToText.from_pretrained(
            self.folder, dtype=torch.float32, attn_implementation="moved_reference"
        ).eval()

    def in_dtype(self, dtype: torch.dtype) -> Case:
        """The same model in another precision."""
        case = copy.copy(self)
        case.family = load_model(str(self.folder), str(dtype).removeprefix("torch."), "cpu")
        return case

    def picture(self, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        return rng.integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)

    def frames(
        self, rng: np.random.Generator, indices: Sequence[int], share: float = 1.0, anchors: int = 0
    ) -> list[Frame]:
        """Frames that keep about `share` of their tokens; every `anchors`th is an anchor and keeps all of them."""
        result = []
        for index in indices:
            anchor = anchors > 0 and index % anchors == 0
            keep = np.ones(self.tokens, bool) if anchor else rng.random(self.tokens) < share
            patches = self.family.input.patches(self.picture(rng), keep)
            size = (self.width, self.height)
            result.append(Frame(index, index / 2, keep, patches if keep.any() else None, size, anchor))
        return result

    def normalised(self, frames: Sequence[Frame]) -> Tensor:
        """(frames, 3, height, width), by the processor's formula."""
        settings = self.family.processing
        mean, std = (torch.tensor(settings[x]).view(3, 1, 1) for x in ("image_mean", "image_std"))
        raw = torch.stack([torch.from_numpy(picture_of(self.family, frame)) for frame in frames]).permute(0, 3, 1, 2)
        return (raw / 255 - mean) / std

    @torch.inference_mode()
    def with_visible(self, visible: Tensor, run: Any) -> Any:
        """`run()` with the masked ViT's queries seeing only `visible` (tokens,) bool."""
        token = _visible.set(visible)
        try:
            return run()
        finally:
            _visible.reset(token)

    @abstractmethod
    def stock_logits(self, frames: Sequence[Frame], prompt: str, answer: Sequence[int] = ()) -> Tensor:
        """(1 + answer tokens, vocabulary): logits after the question, and after each token of `answer`."""

    @abstractmethod
    def masked_features(self, frame: Frame) -> Tensor:
        """(kept tokens, levels, hidden)."""


class InternVLCase(Case):
    name = "internvl"
    sizes: ClassVar[dict[str, Any]] = {
        "image_size": 112,
        "hidden": 48,
        "heads": 4,
        "kv_heads": 2,
        "layers": 3,
        "vision_hidden": 32,
    }
    width, height = 112, 112

    @torch.inference_mode()
    def stock_logits(self, frames: Sequence[Frame], prompt: str, answer: Sequence[int] = ()) -> Tensor:
        images = self.tokens * "<IMG_CONTEXT>"
        video = "\n".join(f"Frame{f.index + 1}: <img>{images}</img>" for f in frames)  # as in InternVLProcessor
        text = f"<|im_start|>user\n{video}\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        ids = torch.tensor([[*self.family.tokenizer(text, add_special_tokens=False)["input_ids"], *answer]])
        return self.stock(input_ids=ids, pixel_values=self.normalised(frames)).logits[0, -1 - len(answer) :]

    def masked_features(self, frame: Frame) -> Tensor:
        rows = int(len(frame.keep) ** 0.5)
        patches = np.kron(frame.keep.reshape(rows, rows), np.ones((2, 2), bool)).ravel()
        visible = torch.from_numpy(np.concatenate([[True], patches]))
        features = self.with_visible(visible, lambda: self.masked.model.get_image_features(self.normalised([frame])))
        return features.pooler_output[0][torch.from_numpy(frame.keep)][:, None]
