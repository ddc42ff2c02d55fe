"""Small checkpoints with random weights for tests, demonstrations and timing: real files of a real family, no training.

Everything is made offline and from a fixed seed, and saved through transformers, so that they load by the ordinary path.
Their configuration says `codecflow_untrained`: answers mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from codecflow.errors import ModelError
from codecflow.vlm.loading import quiet

_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}{{ 'VIDEO' }}{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_WORDS = ("yes", "no", "Yes", "No", " yes", " no", " Yes", " No", "Frame", "assistant", "user", " the", " is")
_CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def make_tiny(out: Path, family: str = "internvl", seed: int = 0, **sizes: Any) -> Path:
    """Writes a checkpoint of `family` into the folder `out` and returns it. Raises ModelError on an unknown family.

    `sizes`: keyword arguments of the family's maker below, to vary what tests must not fix.
    """
    if family not in MAKERS:
        raise ModelError(f"family {family!r}: use one of {', '.join(sorted(MAKERS))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, tokenizer, processing = MAKERS[family](**sizes)
        _randomise(model)
    model.config.codecflow_untrained = True
    with quiet():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for name, settings in processing.items():
        _write_json(out / name, settings)
    return out


def tiny_internvl(
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vision_hidden: int = 64,
    vision_layers: int = 2,
    image_size: int = 448,
    patch_size: int = 14,
    max_positions: int = 32768,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, dict[str, Any]]:
    """InternVL: by default 448x448 pixels, 32x32 patches, 256 tokens a frame."""
    tokenizer = byte_tokenizer(
        ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
        chat_template=_CHATML.replace("VIDEO", "<video>\\n"),
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = InternVLConfig(
        vision_config={
            "hidden_size": vision_hidden,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": heads,
            "intermediate_size": 2 * vision_hidden,
            "image_size": [image_size, image_size],
            "patch_size": [patch_size, patch_size],
            "attention_bias": True,
        },
        text_config=_qwen2(tokenizer, hidden, layers, heads, kv_heads, max_positions).to_dict(),
        image_token_id=tokenizer.get_vocab()["<IMG_CONTEXT>"],
        image_seq_length=(image_size // patch_size // 2) ** 2,
        tie_word_embeddings=False,
    )
    size = {"height": image_size, "width": image_size}
    image = {"size": size, "resample": 3, "do_resize": True, "do_rescale": True, "do_normalize": True, **_CLIP}
    files = {
        "preprocessor_config.json": {"image_processor_type": "GotOcr2ImageProcessor", **image},
        "video_preprocessor_config.json": {"video_processor_type": "InternVLVideoProcessor", **image},
        "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": config.image_seq_length},
    }
    return InternVLForConditionalGeneration(config), tokenizer, files


MAKERS: dict[str, Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerFast, dict[str, Any]]]] = {
    "internvl": tiny_internvl,
}


def byte_tokenizer(special: list[str], chat_template: str, **named: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a few merged words, ChatML's tokens and `special`; `named`: extra token attributes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        symbols = list(word.replace(" ", "Ġ"))
        while len(symbols) > 1:
            pair = (symbols[0], symbols[1])
            if pair not in merges:
                merges.append(pair)
                vocabulary[pair[0] + pair[1]] = len(vocabulary)
            symbols[:2] = [pair[0] + pair[1]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    chatml = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*chatml, *special)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template,
        extra_special_tokens=named,
    )


def _qwen2(
    tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, heads: int, kv_heads: int, max_positions: int
) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=-(-len(tokenizer) // 16) * 16,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=max_positions,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def _randomise(model: nn.Module) -> None:
    """Every weight matters, learned positions and norms too, so that a test that runs on such a model can fail."""
    for name, weight in model.named_parameters():
        spread = 0.5 if weight.dim() == 1 else 1.5 / max(weight[0].numel(), 1) ** 0.5
        nn.init.normal_(weight, std=min(spread, 0.5))
        if weight.dim() == 1 and ("norm" in name or "lambda" in name):
            weight.data.abs_().add_(0.5)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
