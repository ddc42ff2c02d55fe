"""The model families: by the `model_type` of a checkpoint's configuration."""

from .base import Family, Patches
from .internvl import InternVL

FAMILIES: dict[str, type[Family]] = {family.model_type: family for family in (InternVL,)}

__all__ = ["FAMILIES", "Family", "InternVL", "Patches"]
