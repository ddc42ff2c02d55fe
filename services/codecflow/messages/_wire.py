"""Reading and writing one record, and the rules common to all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, TypeVar

import msgspec

from codecflow.errors import MessageError
from codecflow.text import one_line

from .limits import MAX_DOCUMENT, MAX_INT32, MAX_INT64, MAX_LINE, STREAM_ID, fraction

SCHEMA_VERSION: Literal[1] = 1
"""Version of every message. A reader refuses any other: guessing at unknown fields would silently give wrong answers."""

Version = Literal[1]

Headers = list[tuple[str, bytes]]
"""Kafka record headers in confluent-kafka's form."""

T = TypeVar("T")

REFUSALS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are not the expected document."""


class _Versioned(msgspec.Struct):
    v: Any = None


_versions = msgspec.json.Decoder(_Versioned)
_documents = msgspec.json.Decoder(dict[str, Any])


def dump(message: Any, **derived: Any) -> bytes:
    """JSON bytes of a message's fields with the schema version first, without fields that are None and without the stream,
    which is the key.

    `derived`: members added for readers, or written instead of fields.
    """
    document: dict[str, Any] = {"v": SCHEMA_VERSION, **msgspec.to_builtins(message, enc_hook=_pair), **derived}
    del document["stream"]
    return msgspec.json.encode({name: member for name, member in document.items() if member is not None})


def load(kind: type[T], key: bytes | None, value: bytes | None, what: str, **absent: Any) -> T:
    """The message of `kind` in a record: an object of its fields, with the stream as key. Unknown members are ignored.

    `absent`: values for members that may be missing and have no default.

    Raises MessageError when it is not one, has another schema version, or exceeds a bound.
    """
    stream = stream_of(key, what)
    document = {**absent, **load_members(value, what), "stream": stream}
    try:
        return msgspec.convert(document, kind, dec_hook=_unpair)
    except REFUSALS as error:
        raise refused(value, what, error) from error


def load_members(value: bytes | None, what: str) -> dict[str, Any]:
    """The JSON object in `value`, with this schema version. Raises MessageError."""
    check_length(value, what)
    try:
        document = _documents.decode(value or b"")
    except REFUSALS as error:
        raise refused(value, what, error) from error
    if type(document.get("v")) is not int or document["v"] != SCHEMA_VERSION:
        raise refused(value, what, ValueError("schema version"))
    return document


def check_length(value: bytes | None, what: str) -> None:
    """Raises MessageError when a document exceeds the maximum length."""
    if value is not None and len(value) > MAX_DOCUMENT:
        raise MessageError(f"{what}: {len(value)} bytes; a document has at most {MAX_DOCUMENT}")


def refused(value: bytes | None, what: str, error: Exception) -> MessageError:
    """Why `value`, which caused `error`, is no message."""
    if not value:
        return MessageError(f"{what}: empty record")
    if isinstance(error, RecursionError):
        return MessageError(f"{what}: nested too deeply")
    try:
        version = _versions.decode(value).v
    except REFUSALS:
        version = SCHEMA_VERSION  # it is not an object, as `error` says
    if type(version) is not int or version != SCHEMA_VERSION:
        shown = one_line(repr(version), 40)
        return MessageError(f"{what}: schema version {shown}; this CodecFlow reads version {SCHEMA_VERSION}")
    return MessageError(f"{what}: {one_line(str(error), MAX_LINE)}")


def stream_of(key: bytes | None, what: str) -> str:
    """The stream id in a record's key. Raises MessageError when there is none."""
    if key is None or len(key) > 200 or (stream := _stream_of(key)) is None:
        shown = "none" if key is None else repr(one_line(key[:50].decode(errors="replace")))
        raise MessageError(f"{what}: the key must be a stream id (1 to 200 of A-Z a-z 0-9 . _ : -), not {shown}")
    return stream


@lru_cache(maxsize=4096)
def _stream_of(key: bytes) -> str | None:
    text = key.decode("ascii", errors="replace")
    return text if is_stream_id(text) else None


def is_stream_id(text: str) -> bool:
    return _stream_id(text) is not None


_stream_id: Callable[[str], re.Match[str] | None] = re.compile(STREAM_ID).match


def _pair(value: object) -> list[int]:
    if isinstance(value, Fraction):
        return [value.numerator, value.denominator]
    raise TypeError(f"no wire form of {type(value).__name__}")


def _unpair(kind: type, value: object) -> Fraction:
    """A fraction of two non-negative integers, of 64 and 32 bits."""
    match value:
        case [int(numerator), int(denominator)] if kind is Fraction and not {bool} & {type(n) for n in value}:
            if 0 <= numerator <= MAX_INT64 and 0 < denominator <= MAX_INT32:
                return fraction(numerator, denominator)
    raise ValueError("[numerator, denominator] of integers is expected, of 64 and 32 bits and not negative")
