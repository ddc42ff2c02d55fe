"""The model families, by the `model_type` of a checkpoint's configuration."""

from .base import Family, Patches
from .internvl import InternVL
from .llava_onevision import LlavaOnevision
from .qwen3_vl import Qwen3VL

FAMILIES: dict[str, type[Family]] = {family.model_type: family for family in (InternVL, LlavaOnevision, Qwen3VL)}

__all__ = ["FAMILIES", "Family", "InternVL", "LlavaOnevision", "Patches", "Qwen3VL"]
