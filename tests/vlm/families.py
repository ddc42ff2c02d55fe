"""Every family's case, by its name: the parameters of the fixture `case`."""

from __future__ import annotations

from .cases import Case, InternVLCase
from .llava_onevision import LlavaOnevisionCase
from .qwen3_vl import Qwen3VLCase

CASES: dict[str, type[Case]] = {case.name: case for case in (InternVLCase, LlavaOnevisionCase, Qwen3VLCase)}
