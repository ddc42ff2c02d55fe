"""Names of contenders, KEEP[@COVERAGE]/REFRESH, as they are written in answers and tables. Without torch: scores need no
model."""

from __future__ import annotations

import re

REFERENCE = "all/all"
"""What the others are compared with, unless another one is given."""

TARGET = "replenish/none"
"""The product's default."""


def family_of(name: str) -> str:
    """The common name of contenders that differ only in a number: last/all of last-4/all, motion/none of motion-2/none."""
    keep, _, refresh = name.partition("/")
    keep, at, coverage = keep.partition("@")
    return f"{keep.partition('-')[0]}{at}{coverage}/{refresh.partition('=')[0]}"


def keep_policy(name: str) -> str:
    """The keep policy of a contender, without its number and coverage."""
    return re.split("[-@/]", name)[0]
