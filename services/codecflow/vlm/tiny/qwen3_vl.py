"""A small Qwen3-VL."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from .components import Made, byte_tokenizer, chatml, vocabulary_size


def tiny_qwen3_vl(
    *,
    hidden: int = 64,
    layers: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    vision_hidden: int = 64,
    vision_layers: int = 3,
    deepstack: Sequence[int] = (0, 1),
    patch_size: int = 16,
    learned_side: int = 48,
    max_positions: int = 32768,
) -> Made:
    """Qwen3-VL: features enter at the embeddings and after the first text layers, one for each entry of `deepstack`."""
    markers = {
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
    }
    template = chatml("<|vision_start|><|video_pad|><|vision_end|>")
    tokenizer = byte_tokenizer(list(markers.values()), chat_template=template, **markers)
    vocabulary = tokenizer.get_vocab()
    head_dim = hidden // heads
    turned = head_dim // 2 * 5 // 16  # frequencies of rows, and of columns: 20 of 64 in the published models
    config = Qwen3VLConfig(
        vision_config={
            "hidden_size": vision_hidden,
            "depth": vision_layers,
            "num_heads": heads,
            "intermediate_size": 2 * vision_hidden,
            "out_hidden_size": hidden,
            "patch_size": patch_size,
            "num_position_embeddings": learned_side**2,
            "deepstack_visual_indexes": list(deepstack),
        },
        text_config={
            "vocab_size": vocabulary_size(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": max_positions,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000,
                "mrope_interleaved": True,
                "mrope_section": [head_dim // 2 - 2 * turned, turned, turned],
            },
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}
    shape = {"patch_size": patch_size, "merge_size": 2, "temporal_patch_size": 2, **half}
    files = {
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {"longest_edge": 2**24, "shortest_edge": 2**16},
            **shape,
        },
        "video_preprocessor_config.json": {
            "video_processor_type": "Qwen3VLVideoProcessor",
            "size": {"longest_edge": 24 * 2**20, "shortest_edge": 2**12},
            **shape,
        },
        "processor_config.json": {"processor_class": "Qwen3VLProcessor"},
    }
    return Qwen3VLForConditionalGeneration(config), tokenizer, files
