"""A small InternVL."""

from __future__ import annotations

from transformers import InternVLConfig, InternVLForConditionalGeneration

from .components import Made, byte_tokenizer, chatml, qwen2

_CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


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
) -> Made:
    """InternVL: by default 448x448 pixels, 32x32 patches, 256 tokens per frame."""
    tokenizer = byte_tokenizer(
        ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
        chat_template=chatml("<video>\n"),
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
        text_config=qwen2(tokenizer, hidden, layers, heads, kv_heads, max_positions).to_dict(),
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
