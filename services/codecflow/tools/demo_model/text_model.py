"""Reads SmolLM2-135M-Instruct from its GGUF file and adds the image tokens that an InternVL checkpoint needs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from codecflow.errors import ModelError

IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
"""Tokens added to SmolLM2's vocabulary, by the attribute names that InternVL's processor looks up."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
    "{% elif part['type'] == 'video' %}<video>\n"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML as SmolLM2 was trained on, with images placed as in InternVL's own template; no default system message."""


def read_text_model(path: Path) -> tuple[Any, Any]:
    """(LlamaForCausalLM in float32 with its embeddings extended by IMAGE_TOKENS, its tokenizer).

    Raises ModelError when the packages that read GGUF are missing.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    try:
        # Not AutoTokenizer, which reads the whole file for its configuration first: 10 s.
        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
        model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except ImportError as error:
        raise ModelError(f"reading {path.name} needs more packages: pip install 'codecflow[demo]' ({error})") from None
    # Saved and loaded again, because only then does a tokenizer know extra tokens by their names.
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        tokenizer = AutoTokenizer.from_pretrained(scratch, extra_special_tokens=IMAGE_TOKENS)
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.chat_template = CHAT_TEMPLATE
    # Their rows are initialised with the mean of the vocabulary, without noise: the same bytes on every machine.
    with torch.no_grad():
        mean = model.model.embed_tokens.weight.mean(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.model.embed_tokens.weight[-len(IMAGE_TOKENS) :] = mean
    return model, tokenizer
