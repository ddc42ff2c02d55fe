"""The page about topics and messages, from the wire contract in schemas/."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from codecflow.kafka.topics import CONFIGS

from . import ROOT
from .markdown import GENERATED, prose, table


def messages() -> str:
    """Topics and the fields of every message, from schemas/."""
    contract = yaml.safe_load((ROOT / "schemas" / "asyncapi.yaml").read_text(encoding="utf-8"))
    topics = []
    for name, config in CONFIGS.items():
        channel = next(c for c in contract["channels"].values() if c["address"] == f"codecflow.{name}")
        topics.append((f"`codecflow.{name}`", channel["description"], _kept(config)))
    parts = [
        GENERATED,
        "# Messages\n",
        "The contract is [asyncapi.yaml](../../schemas/asyncapi.yaml) and the JSON Schemas next to it; this page lists "
        "their fields. Every record's key is the stream id. Readers ignore headers and fields that they do not know.\n",
        "## Topics\n",
        table(("topic", "contents", "kept by default"), topics),
    ]
    for path in sorted((ROOT / "schemas").glob("*.schema.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        parts += [
            f"## {schema['title']}\n",
            f"[{path.name}](../../schemas/{path.name}). {prose(schema['description'])}\n",
        ]
        for title, variant in _variants(schema):
            if title:
                parts.append(f"{title}:\n")
            parts.append(table(("field", "type", "required", "meaning"), _fields(variant, schema, "")))
    return "\n".join(parts)


def _kept(config: Mapping[str, str]) -> str:
    if config["cleanup.policy"] == "compact":
        return "newest of each stream"
    hours = int(config["retention.ms"]) // 3_600_000
    kept = f"{hours // 24} days" if hours % 24 == 0 and hours > 24 else f"{hours} h"
    size = config.get("retention.bytes")
    return kept + (f", {int(size) >> 30} GiB per partition" if size else "")


def _variants(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schema itself, or each of its alternatives."""
    if "properties" in schema:
        yield "", schema
    for variant in schema.get("anyOf", ()):
        chosen = _resolved(variant, schema)
        yield prose(chosen.get("title") or chosen.get("description", "")).rstrip("."), chosen


def _resolved(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        found: Any = schema
        for word in node["$ref"].removeprefix("#/").split("/"):
            found = found[word]
        node = {**found, **{k: v for k, v in node.items() if k != "$ref"}}
    return node


def _fields(node: Mapping[str, Any], schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """A row for each field of an object, followed by the fields of nested objects and lists."""
    for name, field in node.get("properties", {}).items():
        inner = _resolved(field, schema)
        required = "yes" if name in node.get("required", ()) else ""
        yield f"`{prefix}{name}`", _type(inner), required, inner.get("description", "")
        yield from _fields(inner, schema, f"{prefix}{name}.")
        if isinstance(inner.get("items"), dict):
            yield from _fields(_resolved(inner["items"], schema), schema, f"{prefix}{name}[].")


def _type(field: Mapping[str, Any]) -> str:
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        values = [f"`{value}`" for value in field["enum"]]
        return ", ".join(values) if len(values) <= 8 else f"one of {len(values)} names"
    kind = field.get("type", "")
    kinds = [kind] if isinstance(kind, str) else kind
    bounds = [
        f"≥ {field['minimum']}" if "minimum" in field else "",
        f"≤ {field['maximum']}" if "maximum" in field else "",
    ]
    limits = ", ".join(bound for bound in bounds if bound)
    length = f", at most {field['maxLength']} characters" if "maxLength" in field else ""
    return " or ".join(kinds) + (f", {limits}" if limits else "") + length
