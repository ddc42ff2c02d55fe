"""schemas/ for tests: validators by message, and records as the schemas describe them."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from codecflow.messages import Headers

SCHEMAS = Path(__file__).parents[2] / "schemas"


def schema(message: str) -> dict[str, Any]:
    """schemas/`message`.schema.json."""
    document: dict[str, Any] = json.loads((SCHEMAS / f"{message}.schema.json").read_text())
    return document


@cache
def validator(message: str) -> Draft202012Validator:
    """The validator of schemas/`message`.schema.json, as a third-party program would use it."""
    Draft202012Validator.check_schema(schema(message))
    return Draft202012Validator(schema(message))


@cache
def strict(message: str) -> Draft202012Validator:
    """A validator that refuses members that the schema does not define: CodecFlow itself writes none."""
    document = copy.deepcopy(schema(message))

    def close(part: Any) -> None:
        if isinstance(part, dict):
            if part.get("type") == "object" and "properties" in part:
                part["additionalProperties"] = False
            for value in part.values():
                close(value)
        elif isinstance(part, list):
            for value in part:
                close(value)

    close(document)
    return Draft202012Validator(document)


def check(message: str, value: bytes) -> dict[str, Any]:
    """The document in `value`, which must conform to the contract and have no other members."""
    document: dict[str, Any] = orjson.loads(value)
    validator(message).validate(document)
    strict(message).validate(document)
    return document


def check_headers(headers: Headers) -> dict[str, Any]:
    """The document in a packet's headers, which must conform to the contract."""
    values = dict(headers)
    assert len(values) == len(headers), "a header occurs twice"
    assert values.keys() <= {"picture", "extradata"}
    return check("picture", values["picture"])
