"""The model while it learns: the ViT on kept patches only, the text model, and heads that say what is where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from bank import CHANNELS
from layout import ALWAYS, Batch
from questions import CLASSES
from text import SCALE, Text
from torch import Tensor, nn
from torch.nn import functional

from codecflow.tools.demo_model.assemble import IMAGE_MEAN, IMAGE_STD, read_trained_part
from codecflow.tools.demo_model.parts import TEXT, VISION

OPEN_BLOCKS = 5  # upper ViT blocks that are trained whole
FEW = 24
"""Frames that keep at most so many tokens are computed on those alone; the others whole, with a mask."""


class Learner(nn.Module):
    """An assembled codecflow-tiny and what is trained of it.

    `looks`, `knows`: heads of training alone. The first says of each visual token which classes it shows, the first channels
    of a bank's cover, from the very features that the text model gets; the second all channels, from what the text model
    has made of them: what moves, fell, was left takes the frames before.
    """

    table: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.image_id = model.config.image_token_id
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        core = model.model.float()
        device = core.language_model.embed_tokens.weight.device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.tower, self.projector = core.vision_tower, core.multi_modal_projector
        self.depth = len(self.tower.encoder.layer) - OPEN_BLOCKS
        for module in (self.projector, self.tower.layernorm, *self.tower.encoder.layer[self.depth :]):
            module.requires_grad_(True)
        self.text = Text(core.language_model, self.dtype)
        self.register_buffer("table", core.language_model.embed_tokens.weight.detach(), persistent=False)
        hidden = self.table.shape[1]
        self.looks = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, len(CLASSES)))
        self.knows = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, CHANNELS))
        self.rows = nn.Parameter(self.table[-4:].clone())
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(1, 3, 1, 1), persistent=False)
        self.to(device)

    def groups(self) -> list[dict[str, Any]]:
        """Parameters by learning rate, as factors of the base rate."""
        vision = [p for p in self.tower.parameters() if p.requires_grad]
        heads = [*self.looks.parameters(), *self.knows.parameters(), self.rows]
        return [
            {"params": list(self.text.parameters()), "factor": 1.0, "weight_decay": 0.0},
            {"params": list(self.projector.parameters()), "factor": 1.5, "weight_decay": 0.01},
            {"params": vision, "factor": 0.2, "weight_decay": 0.01},
            {"params": heads, "factor": 3.0, "weight_decay": 0.0},
        ]

    # --- vision ---------------------------------------------------------------------------------------------

    def see(self, frames: Tensor, keep: npt.NDArray[np.bool_]) -> Tensor:
        """Features (kept tokens, hidden) of `frames` (n, 3, S, S) uint8 under `keep` (n, tokens), in order.

        Nothing dropped is attended to. Indices are found on the CPU: on the GPU each would wait for all work before it.
        """

        def up(array: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(frames.device, non_blocking=True)

        x, start = self._patches(frames)  # (n, tokens, 4, width), (1, 1, width)
        n, tokens, _, width = x.shape
        count = keep.sum(1)
        out = x.new_zeros(n * tokens, 4 * width)
        whole, few = np.flatnonzero(count > FEW), np.flatnonzero((count > 0) & (count <= FEW))
        if len(whole):
            mask = None if (count[whole] == tokens).all() else self._mask(up(keep[whole]))
            hidden = self._blocks(torch.cat([start.expand(len(whole), -1, -1), x[up(whole)].flatten(1, 2)], 1), mask)
            at = up((whole[:, None] * tokens + np.arange(tokens)).ravel())
            out = out.index_copy(0, at, hidden[:, 1:].reshape(-1, 4 * width).to(out.dtype))
        if len(few):
            most = int(count[few].max())
            order = np.argsort(~keep[few], axis=1, kind="stable")[:, :most]  # kept tokens first
            valid = np.arange(most)[None] < count[few][:, None]
            part = x.flatten(0, 1)[up(few[:, None] * tokens + order)]  # (few, most, 4, width)
            hidden = self._blocks(
                torch.cat([start.expand(len(few), -1, -1), part.flatten(1, 2)], 1), self._mask(up(valid))
            )
            merged = hidden[:, 1:].reshape(-1, 4 * width)[up(np.flatnonzero(valid))]
            out = out.index_copy(0, up((few[:, None] * tokens + order)[valid]), merged.to(out.dtype))
        kept = out[up(np.flatnonzero(keep))]
        with torch.autocast(frames.device.type, self.dtype, enabled=self.dtype != torch.float32):
            features: Tensor = self.projector(kept)
            return features

    @torch.no_grad()
    def _patches(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(patches in groups of 2x2, row by row, as the projector merges them (n, tokens, 4, width); class token)."""
        pixels = (frames.float() / 255 - self.mean) / self.std
        embeddings = self.tower.embeddings
        x = embeddings.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)
        places = embeddings.position_embeddings
        grid = frames.shape[-1] // 28
        x = (x + places[:, 1:]).view(len(frames), grid, 2, grid, 2, -1)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(len(frames), grid * grid, 4, -1), embeddings.cls_token + places[
            :, :1
        ]

    @staticmethod
    def _mask(keep: Tensor) -> Tensor:
        """(n, 1, 1, 1 + 4 * tokens) bool: the class token and the kept patches may be attended to."""
        patches = keep.repeat_interleave(4, 1)
        return torch.cat([patches.new_ones(len(keep), 1), patches], 1)[:, None, None]

    def _blocks(self, x: Tensor, mask: Tensor | None) -> Tensor:
        layers = self.tower.encoder.layer
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            with torch.no_grad():
                for layer in layers[: self.depth]:
                    x = self._block(layer, x, mask)
            for layer in layers[self.depth :]:
                x = self._block(layer, x, mask)
            return self._norm(self.tower.layernorm, x)

    def _block(self, layer: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        attention = layer.attention
        y = self._norm(layer.layernorm_before, x)
        n, length, width = y.shape
        q, k, v = (
            p(y).view(n, length, attention.num_heads, -1).transpose(1, 2)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if mask is not None:
            mask = mask.expand(n, 1, length, length)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(n, length, width)
        x = torch.addcmul(x, layer.lambda_1, attention.projection_layer(y).float())
        return torch.addcmul(x, layer.lambda_2, layer.mlp(self._norm(layer.layernorm_after, x)).float())

    def _norm(self, norm: Any, x: Tensor) -> Tensor:
        """In float32: DINOv2's residual stream has outliers that bfloat16 does not survive (features were 20 % off)."""
        with torch.autocast(x.device.type, enabled=False):
            return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(self.dtype)

    # --- text -----------------------------------------------------------------------------------------------

    def read(self, batch: Batch, features: Tensor) -> Tensor:
        """Hidden states (n, length, hidden) float32 of the text model over `batch`, whose arrays are on the device."""
        ids, plain = batch.ids, len(self.table) - 4
        special = functional.embedding((ids - plain).clamp(min=0), self.rows)
        embeds = torch.where((ids >= plain)[..., None], special, functional.embedding(ids, self.table))
        embeds = embeds.masked_scatter((ids == self.image_id)[..., None], features.float())
        hidden: Tensor = self.text(embeds, batch.positions, self._visible(batch), (batch.carried, batch.places))
        return hidden

    @staticmethod
    def _visible(batch: Batch) -> Tensor:
        """(n, 1, length, length + carried) bool: the past, without other questions, and without frames that have left the
        window; of what is carried along, what belongs to the token's stride, which then does not see the prefix itself."""
        length = batch.ids.shape[1]
        to, of = batch.segment[:, None, :], batch.segment[:, :, None]
        mask: Tensor = (to == 0) | (to == of)
        mask &= batch.moment[:, None, :] >= batch.oldest[:, :, None]
        prefix = (batch.moment == ALWAYS) & (batch.segment == 0)
        mask &= ~prefix[:, None, :] | (batch.stride == 0)[:, :, None]
        mask &= torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        mask |= torch.eye(length, dtype=torch.bool, device=mask.device)  # padding must attend to something
        carried = batch.seen_by[:, None, :] == batch.stride[:, :, None]
        return torch.cat([mask, carried], 2)[:, None]

    def score(self, hidden: Tensor) -> Tensor:
        """(…, vocabulary) float32 logits of hidden states."""
        return functional.linear(hidden.to(self.dtype), self.table.to(self.dtype)).float()

    # --- the trained part -----------------------------------------------------------------------------------

    def parts(self) -> dict[str, Tensor]:
        """What is trained, under the names of the trained part's file; views that may be written to."""
        found: dict[str, Tensor] = {"rows.model.language_model.embed_tokens.weight": self.rows}
        found |= {f"lora.model.language_model.layers.{name}": p for name, p in self.text.named()}
        for prefix, module in (("vision_tower", self.tower), ("multi_modal_projector", self.projector)):
            found |= {f"model.{prefix}.{n}": p for n, p in module.named_parameters() if p.requires_grad}
        return found

    def start_from(self, path: Path, vision: float = 1.0) -> None:
        """Continue from a trained part. `vision`: its share in the ViT's blocks, the rest from the published ones: what was
        learnt of too few places is half forgotten, and the published features, which hold anywhere, are half restored."""
        tensors = read_trained_part(path).tensors
        with torch.no_grad():
            for name, value in self.parts().items():
                share = vision if name.startswith("model.vision_tower.") else 1.0
                value.lerp_(tensors[name].to(value), share)

    def export(self, path: Path, side: int) -> None:
        """Write what was trained for inputs of `side` pixels to `path`, in bfloat16, as `codecflow model build` reads it."""
        from safetensors.torch import save_file

        about = {"parts": [VISION.sha256, TEXT.sha256], "side": side, "lora_scale": SCALE}
        plain = {name: tensor.detach().to(torch.bfloat16).contiguous().cpu() for name, tensor in self.parts().items()}
        save_file(plain, str(path), {"codecflow": json.dumps(about)})
