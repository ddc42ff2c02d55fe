"""Pieces of the generated pages in Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

GENERATED = "<!-- Generated from the code by `make docs`. Do not edit. -->\n"


def cell(text: object) -> str:
    """`text` as one cell of a Markdown table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").replace("<", "&lt;").strip()


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(head)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def prose(text: str | None) -> str:
    """A docstring as Markdown paragraphs; commands are formatted as code."""
    plain = inspect.cleandoc(text or "").replace("\b\n", "").replace("\f", "")
    paragraphs = re.split(r"\n\s*\n", plain)
    return "\n\n".join(
        f"```sh\n{inspect.cleandoc(p)}\n```" if p.lstrip().startswith("codecflow ") else p.replace("<", "&lt;")
        for p in paragraphs
    )
