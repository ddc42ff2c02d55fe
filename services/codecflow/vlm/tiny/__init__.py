"""Small checkpoints with random weights for tests, demonstrations and timing: real files of a real family, untrained.

They are built offline from a fixed seed and saved through transformers, so they load like any checkpoint. Their
configuration sets `codecflow_untrained`: answers have no meaning. One module per family.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from codecflow.errors import ModelError
from codecflow.folders import make_folder
from codecflow.vlm.loading import quiet

from .components import Made, randomise
from .internvl import tiny_internvl
from .llava_onevision import tiny_llava_onevision
from .qwen3_vl import tiny_qwen3_vl

MAKERS: dict[str, Callable[..., Made]] = {
    "internvl": tiny_internvl,
    "llava_onevision": tiny_llava_onevision,
    "qwen3_vl": tiny_qwen3_vl,
}


def make_tiny(out: Path, family: str = "internvl", seed: int = 0, **sizes: Any) -> Path:
    """Writes a checkpoint of `family` to the folder `out` and returns it. Raises ModelError on an unknown family,
    ConfigError when `out` is not writable.

    `sizes`: keyword arguments of the family's maker, for tests with other sizes.
    """
    if family not in MAKERS:
        raise ModelError(f"family {family!r}: use one of {', '.join(sorted(MAKERS))}")
    make_folder(out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, tokenizer, processing = MAKERS[family](**sizes)
        randomise(model)
    model.config.codecflow_untrained = True
    with quiet():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for name, settings in processing.items():
        (out / name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return out
