"""Reading and writing one JSON document, and the rules that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson

from codecflow.errors import MessageError

SCHEMA_VERSION = 1
"""Version of every message below. A reader refuses any other: a guess at unknown fields would be a silent wrong answer."""

Headers = list[tuple[str, bytes]]
"""Kafka record headers as confluent-kafka takes and gives them."""

T = TypeVar("T")


def dump(document: Mapping[str, Any]) -> bytes:
    """JSON bytes with the schema version first."""
    return orjson.dumps({"v": SCHEMA_VERSION, **document})


def load(value: bytes | None, what: str) -> dict[str, Any]:
    """The JSON object in `value`. Raises MessageError when it is none, or of another schema version."""
    if not value:
        raise MessageError(f"{what}: empty record")
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise MessageError(f"{what}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise MessageError(f"{what}: a JSON object is expected, not {type(document).__name__}")
    check_version(document.get("v"), what)
    return document


def check_version(version: object, what: str) -> None:
    if type(version) is not int or version != SCHEMA_VERSION:
        raise MessageError(f"{what}: schema version {version!r}; this CodecFlow reads version {SCHEMA_VERSION}")


def stream_of(key: bytes | None, what: str) -> str:
    """The stream id in a record's key. Raises MessageError when there is none."""
    try:
        stream = (key or b"").decode()
    except UnicodeDecodeError as error:
        raise MessageError(f"{what}: the key is not UTF-8") from error
    if not stream:
        raise MessageError(f"{what}: a stream is expected as key")
    return stream


def field(document: Mapping[str, Any], name: str, kind: type[T], what: str) -> T:
    """`document[name]`, checked to be of `kind` (an int passes for a float, a bool never for an int)."""
    value = document.get(name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise MessageError(f"{what}: field {name!r} must be {kind.__name__}, not {value!r}"[:300])
    return value


def numbers(document: Mapping[str, Any], name: str, what: str) -> dict[str, float]:
    """`document[name]`, an object whose values are all numbers."""
    part = field(document, name, dict, what)
    return {key: field(part, key, float, f"{what}: {name}") for key in part}
