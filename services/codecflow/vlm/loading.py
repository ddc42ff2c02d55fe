"""Loads a checkpoint, a hub id or a folder, through transformers."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging
from transformers.utils.hub import cached_file

from codecflow.errors import ModelError
from codecflow.vlm.attention import NAME
from codecflow.vlm.decoder import Decoder
from codecflow.vlm.dense import QUANTISED
from codecflow.vlm.families import FAMILIES, Family

WEIGHTS = ("auto", *QUANTISED)
"""Precisions of the language model's weights."""

KV = ("auto", "fp8")
"""Precisions of stored keys and values."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Files with a checkpoint's picture processor settings; the one for videos takes precedence.
_PROCESSING = (
    ("video_preprocessor_config.json", None),
    ("processor_config.json", "video_processor"),
    ("preprocessor_config.json", None),
    ("processor_config.json", "image_processor"),
)


def load_model(name: str, dtype: str = "auto", device: str = "auto", weights: str = "auto", kv: str = "auto") -> Family:
    """The checkpoint `name`, ready for an Engine.

    `weights`: fp8 or int8: the language model's linear layers in 8 bits, each converted before the next one takes memory on
    the device. `kv`: fp8: keys and values are stored in 8 bits. auto: in the dtype.
    `dtype`: float32, bfloat16, float16; auto: bfloat16 on a GPU, float32 on the CPU. `device`: cpu, cuda, cuda:1, ...; auto:
    a GPU if there is one. Raises ModelError when there is no such checkpoint or its family is not supported.
    """
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    _check_precision(weights, kv)
    if name.startswith(("/", ".", "~")) and not os.path.isdir(name):
        raise ModelError(f"model {name}: there is no such folder; make it with codecflow model, or give a hub id")
    try:
        config = AutoConfig.from_pretrained(name)
        family = _family(name, config.model_type)
        with quiet():
            model = AutoModelForImageTextToText.from_pretrained(name, dtype=kind, attn_implementation=NAME)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {name!r}: {_first_line(error)} Give a checkpoint's folder or hub id.") from error
    if not tokenizer.chat_template:
        tokenizer.chat_template = _json(name, "chat_template.json").get("chat_template")
    if not tokenizer.chat_template:
        raise ModelError(f"model {name!r}: it has no chat template, so it cannot be asked questions")
    found = family(_moved(model, place, weights), tokenizer, _processing(name), weights)
    if weights != "auto":
        _decoder(found, weights)
    set_precision(found, "auto", kv)
    return found


def set_precision(family: Family, weights: str, kv: str) -> None:
    """Converts a family that is loaded; `load_model` takes less memory. Raises ModelError on a value other than WEIGHTS and
    KV have, and where the language model's layers are not supported."""
    _check_precision(weights, kv)
    if weights != "auto":
        _decoder(family, weights).quantise(weights)
    if kv == "fp8":
        family.store(replace(family.kv, eight_bit=True))


def _check_precision(weights: str, kv: str) -> None:
    for what, value, allowed in (("weights", weights, WEIGHTS), ("kv", kv, KV)):
        if value not in allowed:
            raise ModelError(f"{what} {value!r}: use {' or '.join(allowed)}")


def _decoder(family: Family, weights: str) -> Decoder:
    if family.decoder is None:
        raise ModelError(f"weights {weights}: this checkpoint's language model cannot have them; leave --weights out")
    return family.decoder


def _moved(model: Any, device: torch.device, weights: str) -> Any:
    """The model on its device, for inference. Layers that are to be converted to 8 bits follow later, one by one."""
    text = model.model.language_model
    layers = text.layers
    if weights != "auto":
        text.layers = nn.ModuleList()
    model.to(device).eval()
    text.layers = layers
    return model


def choose_device(name: str) -> torch.device:
    """`auto`: a GPU if there is one. Raises ModelError on an invalid name, or a device that does not exist here."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise ModelError(f"device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name!r}: this machine has {torch.cuda.device_count()} GPUs that torch can use")
    return device


def device_name(device: torch.device) -> str:
    """Of the GPU's or CPU's model, for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on a GPU, float32 on the CPU. Raises ModelError on an unknown name."""
    if name != "auto" and name not in DTYPES:
        raise ModelError(f"dtype {name!r}: use auto, {', '.join(DTYPES)}")
    return DTYPES.get(name, torch.bfloat16 if device.type == "cuda" else torch.float32)


def slower_than_needed(family: Family) -> bool:
    """Whether the model computes in float32 on a CPU that has matrix units for bfloat16 (AMX), several times as fast.

    `auto` does not choose them, so that answers on CPUs do not depend on the machine.
    """
    capabilities: Callable[[], Mapping[str, object]] | None = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11
    if capabilities is None or family.device.type != "cpu" or family.dtype != torch.float32:
        return False
    return bool(capabilities().get("amx_bf16"))


@contextmanager
def quiet() -> Iterator[None]:
    """Disables transformers' progress bars inside the block."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _family(name: str, model_type: str) -> type[Family]:
    if model_type not in FAMILIES:
        raise ModelError(f"model {name!r} is of type {model_type!r}: use a checkpoint of {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def _processing(name: str) -> dict[str, Any]:
    for file, part in _PROCESSING:
        settings = _json(name, file)
        found = settings.get(part) if part else settings
        if found:
            return dict(found)
    return {}


def _json(name: str, file: str) -> dict[str, Any]:
    """A JSON file of the checkpoint, {} if it does not exist."""
    path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    return content


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
