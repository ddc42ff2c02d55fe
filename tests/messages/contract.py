"""schemas/ as a test sees it: validators by message, and records as the schemas describe them."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from codecflow.messages import Headers

SCHEMAS = Path(__file__).parents[2] / "schemas"


@cache
def validator(message: str) -> Draft202012Validator:
    """The validator of schemas/`message`.schema.json."""
    schema = json.loads((SCHEMAS / f"{message}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def check(message: str, value: bytes) -> dict[str, Any]:
    """The document in `value`, which must be of the contract."""
    document: dict[str, Any] = orjson.loads(value)
    validator(message).validate(document)
    return document


def headers_document(headers: Headers) -> dict[str, str]:
    """Record headers as packet-headers.schema.json sees them."""
    document = {name: value.decode() for name, value in headers if name != "extradata"}
    for name, value in headers:
        if name == "extradata":
            document[name] = base64.b64encode(value).decode()
    assert len(document) == len(headers), "a header occurs twice"
    return document
