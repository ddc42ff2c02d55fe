"""Text of others, such as answers, prompts, addresses and errors, made safe to show on a terminal."""

from __future__ import annotations

import json
import re

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""What can move a terminal's cursor, change its state or reorder a line, and halves of characters that have no UTF-8."""


def visible(text: str) -> str:
    """`text` with its control characters written as escapes."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str, most: int | None = None) -> str:
    """`text` in one line: white space is one space, control characters are escapes. Cut to `most` characters, with an
    ellipsis."""
    if most is not None and len(text) > 4 * most:
        text = text[: 4 * most]  # what follows is hardly seen, and may be megabytes
    line = visible(" ".join(text.split()))
    return line if most is None or len(line) <= most else f"{line[: most - 1]}…"


def escape_controls(document: str) -> str:
    """A JSON document with its control characters escaped, beyond those that JSON requires (C1 and marks of direction)."""
    return _CONTROLS.sub(lambda match: json.dumps(match[0])[1:-1], document)
