"""Mutations of bytes and of JSON documents. All randomness comes from the given generator: a case is determined by its
seed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import orjson

_NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30),
    *(-(2**31), -(2**63), 0.5, -0.0, 1e-300, 1e300, 4102444800001),
)
_TEXTS = (
    "",
    " ",
    "\x00",
    "\x1b[2J",
    "\u202e",
    "a\nb",
    "\U0010ffff",
    "9" * 400,
    "x" * 5000,
    "h264",
    "true",
    "-",
    "//",
    "@",
)
_RAW = (
    b"1e2000000000",
    b"1e400",
    b"-1e400",
    b"NaN",
    b"9" * 5000,
    b"[" * 600,
    b'{"a":' * 600,
    b'"\\ud800"',
    b'"\\u0000"',
)


def mutated_bytes(data: bytes, chance: Random, others: Sequence[bytes] = (), most: int = 8) -> bytes:
    """`data` after one to `most` changes: bits, bytes, runs, pieces of itself and of `others` moved, duplicated and cut."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, most)):
        at = chance.randrange(len(changed)) if changed else 0
        length = min(len(changed) - at, 1 << chance.randrange(10))
        match chance.randrange(8):
            case 0 if changed:
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if changed:
                changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 2:
                changed[at:at] = chance.randbytes(length)
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length]
            case 5 if changed:
                changed[at : at + length] = bytes([chance.choice((0, 0xFF))]) * length
            case 6 if others:
                other = chance.choice(others)
                begin = chance.randrange(len(other)) if other else 0
                changed[at : at + length] = other[begin : begin + length]
            case 7:
                del changed[at:]
    return bytes(changed)


def mutated_json(document: bytes, chance: Random) -> bytes:
    """A JSON document with one to four of its values, names or raw pieces replaced, removed or duplicated."""
    root = [orjson.loads(document)]
    raw: list[bytes] = []
    for _ in range(chance.randint(1, 4)):
        places = list(_places(root))
        holder, key = chance.choice(places)
        match chance.randrange(7):
            case 0:
                holder[key] = chance.choice(_NUMBERS)
            case 1:
                holder[key] = chance.choice(_TEXTS)
            case 2:
                holder[key] = chance.choice((None, True, False, [], {}, [[]], [0] * 2000, {"v": 1}))
            case 3 if holder is not root:
                del holder[key]
            case 4 if isinstance(holder, list) and holder is not root:
                holder.insert(key, holder[key])
            case 5 if isinstance(holder, dict):
                holder[chance.choice(_TEXTS)] = holder[key]
            case 6:
                holder[key] = f"\x00raw{len(raw)}"
                raw.append(chance.choice(_RAW))
    text = _dumped(root[0])
    for number, piece in enumerate(raw):
        text = text.replace(b'"\\u0000raw%d"' % number, piece)
    return text


def _dumped(value: Any) -> bytes:
    """As JSON, numbers of any size included."""
    if isinstance(value, dict):
        return b"{" + b",".join(_dumped(name) + b":" + _dumped(one) for name, one in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(_dumped(one) for one in value) + b"]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value).encode()
    return orjson.dumps(value)


def _places(value: Any) -> Any:
    """(holder, key) of every value in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(items):
        yield value, key
        yield from _places(one)
