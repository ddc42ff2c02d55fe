"""Shared parts of all families' small checkpoints: a tokenizer, a text model configuration, and effective random weights."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config

# A family's maker returns its model, its tokenizer, and its processor files: name -> content.
Made = tuple[PreTrainedModel, PreTrainedTokenizerFast, dict[str, Any]]

_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}{{ 'VIDEO' }}{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# One token each, with or without a leading space.
_WORDS = ("yes", "no", "Yes", "No", "Frame", "assistant", "user", "the", "is", "seconds")


def chatml(video: str) -> str:
    """A chat template with `video` as the placeholder of a video."""
    return _CHATML.replace("VIDEO", video.replace("\n", "\\n"))


def byte_tokenizer(special: list[str], chat_template: str, **named: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a few merged words, ChatML's tokens and `special`; `named`: extra token attributes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        pairs = [(word[:length], word[length]) for length in range(1, len(word))]
        for pair in (*pairs, ("Ġ", word)):  # Ġ is the space in a byte-level vocabulary
            if pair not in merges:
                merges.append(pair)
                vocabulary[pair[0] + pair[1]] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    turns = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*turns, *special)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template,
        extra_special_tokens=named,
    )


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Rows of the embedding table, padded like in published models: the last rows have no token."""
    return -(-len(tokenizer) // 16) * 16


def qwen2(
    tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, heads: int, kv_heads: int, max_positions: int
) -> Qwen2Config:
    """A small Qwen2, the text model of several families."""
    return Qwen2Config(
        vocab_size=vocabulary_size(tokenizer),
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


def randomise(model: nn.Module) -> None:
    """Makes every weight matter, including learned positions and norms, so that tests on such a model can fail."""
    for name, weight in model.named_parameters():
        spread = 0.5 if weight.dim() == 1 else 1.5 / max(weight[0].numel(), 1) ** 0.5
        nn.init.normal_(weight, std=min(spread, 0.5))
        if weight.dim() == 1 and ("norm" in name or "lambda" in name):
            weight.data.abs_().add_(0.5)
