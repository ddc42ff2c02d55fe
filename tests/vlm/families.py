"""Every family's case, by its name: what `case` in a test runs through."""

from __future__ import annotations

from .cases import Case, InternVLCase
from .llava_onevision import LlavaOnevisionCase

CASES: dict[str, type[Case]] = {case.name: case for case in (InternVLCase, LlavaOnevisionCase)}
