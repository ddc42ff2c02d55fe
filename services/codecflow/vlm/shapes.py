"""Published models' shapes, built with random weights directly on a device: for timing, not for answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from codecflow.errors import ModelError
from codecflow.vlm.attention import NAME
from codecflow.vlm.families import FAMILIES, Family
from codecflow.vlm.tiny import MAKERS
from codecflow.vlm.tiny.components import Made
from codecflow.vlm.tiny.internvl import tiny_internvl


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a ViT and of a language model: of the family's default type, unless `text` names another `model_type`.
    `side`: of InternVL's square input, in pixels."""

    family: str
    vision: dict[str, Any]
    text: dict[str, Any]
    side: int = 448

    @property
    def cells(self) -> int:
        """Tokens along each side of an InternVL's frame: a patch has 14 pixels, a token 2 x 2 patches."""
        return self.side // 28

    def base(self) -> Made:
        """The family's small model, its tokenizer, and its processor files."""
        return tiny_internvl(image_size=self.side) if self.family == "internvl" else MAKERS[self.family]()

    def config(self, base: PreTrainedConfig) -> PreTrainedConfig:
        """`base` with these sizes. It keeps what the family's tokenizer and template require."""
        settings: dict[str, Any] = base.to_dict()
        settings["vision_config"] |= self.vision
        settings["text_config"].pop("layer_types", None)  # one entry per layer of the base
        settings["text_config"] |= {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        } | self.text
        return type(base)(**settings)


_INTERNVIT_300M = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}


def _text(
    hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int = 151674
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
    }


# SmolLM2-135M, a Llama.
_SMOLLM2 = _text(576, 30, 9, 3, 1536, 49156) | {"model_type": "llama", "head_dim": 64}

_QWEN3_VISION = {
    "hidden_size": 1152,
    "depth": 27,
    "num_heads": 16,
    "intermediate_size": 4304,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
}
_QWEN3_ROTATION = {
    "rope_type": "default",
    "rope_theta": 5e6,
    "mrope_interleaved": True,
    "mrope_section": [24, 20, 20],
}

SHAPES = {
    # For a CPU: an eighth of InternVL3-1B's width and depth.
    "internvl-small": Shape(
        "internvl",
        {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 512},
        _text(128, 3, 4, 2, 512, 512),
    ),
    # The demo's model, and its larger inputs.
    "codecflow-tiny": Shape("internvl", _VIT_S, _SMOLLM2, 224),
    "codecflow-tiny-336": Shape("internvl", _VIT_S, _SMOLLM2, 336),
    "codecflow-tiny-448": Shape("internvl", _VIT_S, _SMOLLM2, 448),
    "internvl3-1b": Shape("internvl", _INTERNVIT_300M, _text(896, 24, 14, 2, 4864)),
    "internvl3-2b": Shape("internvl", _INTERNVIT_300M, _text(1536, 28, 12, 2, 8960)),
    "internvl3-8b": Shape("internvl", _INTERNVIT_300M, _text(3584, 28, 28, 4, 18944)),
    "internvl3-14b": Shape("internvl", _INTERNVIT_300M, _text(5120, 48, 40, 8, 13824)),
    # 299 tokens for a picture of 1280x720.
    "qwen3-vl-8b": Shape(
        "qwen3_vl",
        _QWEN3_VISION | {"out_hidden_size": 4096},
        _text(4096, 36, 32, 8, 12288, 151936) | {"head_dim": 128, "rope_parameters": _QWEN3_ROTATION},
    ),
}


def shape_by_name(name: str) -> Shape:
    """Raises ModelError on an unknown name."""
    if name not in SHAPES:
        raise ModelError(f"shape {name!r}: use one of {', '.join(SHAPES)}")
    return SHAPES[name]


def build_shape(name: str, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Family:
    """A model of shape `name` with random weights, created on `device`. Raises ModelError on an unknown name."""
    shape = shape_by_name(name)
    base, tokenizer, files = shape.base()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(
            shape.config(base.config), dtype=dtype, attn_implementation=NAME
        )
    model.config.codecflow_untrained = True
    return FAMILIES[shape.family](model.to(device).eval(), tokenizer, files["video_preprocessor_config.json"])
