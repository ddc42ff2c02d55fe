"""The model while it learns: low-rank additions, the ViT on kept patches only, and sequences laid out as the engine does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from layout import Batch
from torch import Tensor, nn
from torch.nn import functional

from codecflow.trained.assemble import IMAGE_MEAN, IMAGE_STD, read_trained_part
from codecflow.trained.parts import TEXT, VISION

RANK, LORA_SCALE = 16, 2.0
OPEN_BLOCKS = 5  # upper ViT blocks that are trained whole
CLASSES = 4


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained low-rank product, added to the weights: activations cost nothing more."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)
        self.a = nn.Parameter(
            torch.randn(rank, linear.in_features, device=linear.weight.device) / math.sqrt(linear.in_features)
        )
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, device=linear.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = torch.addmm(self.weight, self.b, self.a, alpha=LORA_SCALE)
        return functional.linear(x.to(torch.bfloat16), weight.to(torch.bfloat16))


class Norm(nn.Module):
    """The text model's RMS norm in one kernel: float32 in (the residual stream), bfloat16 out (what the matrices take)."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach(), requires_grad=False)
        self.eps = float(norm.variance_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps).to(torch.bfloat16)


class Learner(nn.Module):
    """An assembled codecflow-tiny and what is trained of it.

    `head`: of training alone; says for each token which classes it shows, from the very features the text model gets.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model.float(), tokenizer
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        core = model.model
        for layer in core.language_model.layers:
            for block in (layer.self_attn, layer.mlp):
                for name, linear in list(block.named_children()):
                    if isinstance(linear, nn.Linear):
                        setattr(block, name, LoraLinear(linear, RANK))
            for name in ("input_layernorm", "post_attention_layernorm"):
                setattr(layer, name, Norm(getattr(layer, name)))
        tower = core.vision_tower
        self.depth = len(tower.encoder.layer) - OPEN_BLOCKS
        opened = [core.multi_modal_projector, tower.layernorm, *tower.encoder.layer[self.depth :]]
        for module in opened:
            module.requires_grad_(True)
        hidden = core.language_model.config.hidden_size
        self.head = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, CLASSES)).to(core.device)
        self.rows = nn.Parameter(core.language_model.embed_tokens.weight[-4:].detach().clone())
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(1, 3, 1, 1), persistent=False)
        self.to(core.device)
        self.image_id = model.config.image_token_id

    def groups(self) -> list[dict[str, Any]]:
        """Parameters by learning rate, as factors of the base rate."""
        core = self.model.model
        lora = [p for n, p in self.model.named_parameters() if n.endswith((".a", ".b")) and p.requires_grad]
        projector = list(core.multi_modal_projector.parameters())
        vision = [p for p in core.vision_tower.parameters() if p.requires_grad]
        return [
            {"params": lora, "factor": 1.0, "weight_decay": 0.0},
            {"params": projector, "factor": 1.5, "weight_decay": 0.01},
            {"params": vision, "factor": 0.2, "weight_decay": 0.01},
            {"params": [*self.head.parameters(), self.rows], "factor": 3.0, "weight_decay": 0.0},
        ]

    # --- vision ---------------------------------------------------------------------------------------------

    def see(self, frames: Tensor, keep: npt.NDArray[np.bool_], cap: int = 384) -> Tensor:
        """Features (kept tokens, hidden) of `frames` (n, 3, S, S) uint8 under `keep` (n, tokens), in order.

        Nothing dropped is attended to. Frames that keep at most `cap` patches are computed on those alone.
        """

        def up(array: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(frames.device, non_blocking=True)

        n, side = len(frames), frames.shape[-1]
        grid = side // 28
        pixels = (frames.float() / 255 - self.mean) / self.std
        tower = self.model.model.vision_tower
        with torch.no_grad():
            x = tower.embeddings.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)
            places = tower.embeddings.position_embeddings
            if x.shape[1] + 1 != places.shape[1]:
                old = int((places.shape[1] - 1) ** 0.5)
                table = places[:, 1:].transpose(1, 2).reshape(1, -1, old, old)
                table = functional.interpolate(table, (2 * grid, 2 * grid), mode="bicubic", align_corners=False)
                places = torch.cat([places[:, :1], table.flatten(2).transpose(1, 2)], 1)
            x = x + places[:, 1:]
            start = (tower.embeddings.cls_token + places[:, :1]).expand(n, -1, -1)
            # Patches in groups of 2x2: (n, tokens, 4, width), each group row by row, as the projector merges them.
            x = x.view(n, grid, 2, grid, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(n, grid * grid, 4, -1)
        # Indices are found on the CPU: on the GPU each would wait for all work queued before it.
        count = keep.sum(1)
        small = (count * 4 <= cap) & (count > 0)
        out = x.new_zeros(n * grid * grid, 4 * x.shape[-1])
        whole = np.flatnonzero((count > 0) & ~small)
        if len(whole):
            mask = None if (count[whole] == grid * grid).all() else self._mask(up(keep[whole]))
            rows = up(whole)
            hidden = self._blocks(torch.cat([start[rows], x[rows].flatten(1, 2)], 1), mask)
            at = (rows[:, None] * grid * grid + torch.arange(grid * grid, device=x.device)).flatten()
            out = out.index_copy(0, at, self._merged(hidden[:, 1:]).flatten(0, 1).to(out.dtype))
        few = np.flatnonzero(small)
        if len(few):
            most = int(count[few].max())
            order = np.argsort(~keep[few], axis=1, kind="stable")[:, :most]  # kept tokens first
            valid = np.arange(most)[None] < count[few][:, None]
            part = x.flatten(0, 1)[up(few[:, None] * grid * grid + order)]  # (few, most, 4, width)
            hidden = self._blocks(torch.cat([start[up(few)], part.flatten(1, 2)], 1), self._mask(up(valid)))
            merged = self._merged(hidden[:, 1:]).flatten(0, 1)[up(np.flatnonzero(valid))]
            out = out.index_copy(0, up((few[:, None] * grid * grid + order)[valid]), merged.to(out.dtype))
        return self.model.model.multi_modal_projector(out[up(np.flatnonzero(keep))])

    @staticmethod
    def _mask(keep: Tensor) -> Tensor:
        """(n, 1, 1, 1 + 4 * tokens) bool: the class token and the kept patches may be attended to."""
        patches = keep.repeat_interleave(4, 1)
        return torch.cat([patches.new_ones(len(keep), 1), patches], 1)[:, None, None]

    def _blocks(self, x: Tensor, mask: Tensor | None) -> Tensor:
        tower = self.model.model.vision_tower
        with torch.no_grad():
            for layer in tower.encoder.layer[: self.depth]:
                x = self._block(layer, x, mask)
        for layer in tower.encoder.layer[self.depth :]:
            x = self._block(layer, x, mask)
        return tower.layernorm(x)

    @staticmethod
    def _block(layer: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        attention = layer.attention
        y = _layer_norm(layer.layernorm_before, x)
        n, length, width = y.shape
        heads = attention.num_heads
        q, k, v = (
            p(y).view(n, length, heads, -1).transpose(1, 2)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if mask is not None:
            mask = mask.expand(n, 1, length, length)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(n, length, width)
        x = torch.addcmul(x, layer.lambda_1, attention.projection_layer(y).float())
        return torch.addcmul(x, layer.lambda_2, layer.mlp(_layer_norm(layer.layernorm_after, x)).float())

    @staticmethod
    def _merged(hidden: Tensor) -> Tensor:
        """(n, tokens * 4, width) -> (n, tokens, 4 * width), in the order of InternVL's pixel shuffle."""
        n, length, width = hidden.shape
        return hidden.reshape(n, length // 4, 4, width).reshape(n, length // 4, 4 * width)

    # --- text -----------------------------------------------------------------------------------------------

    def read(self, batch: Batch, features: Tensor) -> Tensor:
        """Hidden states (answer positions, hidden) of the text model at `batch.at`."""
        text = self.model.model.language_model
        table = text.embed_tokens.weight
        ids = batch.ids
        embeds = functional.embedding(ids, table)
        special = ids >= len(table) - 4
        embeds = torch.where(
            special[..., None], functional.embedding((ids - (len(table) - 4)).clamp(min=0), self.rows), embeds
        )
        embeds = embeds.masked_scatter((ids == self.image_id)[..., None], features.float())
        hidden = text(
            inputs_embeds=embeds, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        return hidden[batch.at[:, 0], batch.at[:, 1]]

    def score(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.model.model.language_model.embed_tokens.weight.to(hidden.dtype)).float()

    # --- the trained part -----------------------------------------------------------------------------------

    def parts(self) -> dict[str, nn.Parameter]:
        """What is trained, under the names of the trained part's file."""
        found: dict[str, nn.Parameter] = {"rows.model.language_model.embed_tokens.weight": self.rows}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                found[f"lora.{name}" if name.endswith((".a", ".b")) else name] = parameter
        return found

    def start_from(self, path: Path) -> None:
        """Continue from a trained part."""
        tensors = read_trained_part(path).tensors
        with torch.no_grad():
            for name, parameter in self.parts().items():
                parameter.copy_(tensors[name])

    def export(self, path: Path, side: int) -> None:
        """Write what was trained as the trained part that `codecflow model build` reads, in bfloat16."""
        from safetensors.torch import save_file

        about = {"parts": [VISION.sha256, TEXT.sha256], "side": side, "lora_scale": LORA_SCALE}
        plain = {name: t.detach().to(torch.bfloat16).contiguous().cpu() for name, t in self.parts().items()}
        save_file(plain, str(path), {"codecflow": json.dumps(about)})


def _layer_norm(norm: Any, x: Tensor) -> Tensor:
    """In float32: DINOv2's residual stream has outliers that bfloat16 does not survive (features were 20 % off)."""
    with torch.autocast(x.device.type, enabled=False):
        return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(torch.bfloat16)
