"""A small LLaVA-OneVision."""

from __future__ import annotations

from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from .components import Made, byte_tokenizer, chatml, qwen2


def tiny_llava_onevision(
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vision_hidden: int = 64,
    vision_layers: int = 2,
    vision_feature_layer: int | list[int] = -1,
    image_size: int = 384,
    patch_size: int = 14,
    max_positions: int = 32768,
) -> Made:
    """LLaVA-OneVision: by default 384x384 pixels, 27x27 patches, 196 tokens per frame."""
    tokenizer = byte_tokenizer(
        ["<image>", "<video>"], chat_template=chatml("<video>\n"), image_token="<image>", video_token="<video>"
    )
    vocabulary = tokenizer.get_vocab()
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": vision_hidden,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": heads,
            "intermediate_size": 2 * vision_hidden,
            "image_size": image_size,
            "patch_size": patch_size,
            "vision_use_head": False,
        },
        text_config=qwen2(tokenizer, hidden, layers, heads, kv_heads, max_positions).to_dict(),
        image_token_index=vocabulary["<image>"],
        video_token_index=vocabulary["<video>"],
        vision_feature_layer=vision_feature_layer,
        tie_word_embeddings=False,
    )
    size = {"height": image_size, "width": image_size}
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    image = {"size": size, "resample": 3, "do_resize": True, "do_rescale": True, "do_normalize": True, **half}
    files = {
        "preprocessor_config.json": {"image_processor_type": "LlavaOnevisionImageProcessor", **image},
        "video_preprocessor_config.json": {"video_processor_type": "LlavaOnevisionVideoProcessor", **image},
        "processor_config.json": {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": (image_size // patch_size) ** 2,
            "vision_feature_select_strategy": "full",
        },
    }
    return LlavaOnevisionForConditionalGeneration(config), tokenizer, files
