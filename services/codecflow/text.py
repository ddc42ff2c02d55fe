"""Untrusted text, such as answers, prompts, addresses and errors, made safe to show on a terminal."""

from __future__ import annotations

import json
import re

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Characters that can move a terminal's cursor, change its state or reorder a line, and lone surrogates, which have no
UTF-8."""


def visible(text: str) -> str:
    """`text` with its control characters escaped."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str, limit: int | None = None) -> str:
    """`text` in one line: each run of white space becomes one space, control characters are escaped. Truncated to `limit`
    characters, with an ellipsis."""
    if limit is not None and len(text) > 4 * limit:
        text = text[: 4 * limit]  # the rest may be megabytes and is barely visible
    line = visible(" ".join(text.split()))
    return line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…"


def escape_controls(document: str) -> str:
    """A JSON document with its control characters escaped, beyond those that JSON requires (C1 and direction marks)."""
    return _CONTROLS.sub(lambda match: json.dumps(match[0])[1:-1], document)
