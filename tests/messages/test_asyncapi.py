"""schemas/asyncapi.yaml matches the code; `make check` validates it against the specification's own schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from codecflow.kafka.settings import DEFAULT_TOPIC_PREFIX
from codecflow.kafka.topics import CONFIGS, DEFAULT_PARTITIONS

from .contract import SCHEMAS

DOCUMENT = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())
FILES = sorted(SCHEMAS.glob("*.schema.json"))


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_reference_resolves() -> None:
    found = list(references(DOCUMENT))
    assert found
    for reference in found:
        file, _, pointer = reference.partition("#")
        target = json.loads((SCHEMAS / file).read_text()) if file else DOCUMENT
        for step in filter(None, pointer.split("/")):
            assert step in target, reference
            target = target[step]


def test_every_schema_is_of_a_message() -> None:
    assert {file.name for file in FILES} <= set(references(DOCUMENT["components"]["messages"]))


def test_every_channel_is_read_and_written() -> None:
    directions = {(operation["action"], operation["channel"]["$ref"]) for operation in DOCUMENT["operations"].values()}
    for name in DOCUMENT["channels"]:
        written = ("send", f"#/channels/{name}") in directions
        read = ("receive", f"#/channels/{name}") in directions
        assert written, name
        assert read or name == "dead-letter", name  # dead letters are for people


def test_topics_are_kept_as_they_are_created() -> None:
    assert set(DOCUMENT["channels"]) == set(CONFIGS)
    for name, channel in DOCUMENT["channels"].items():
        binding = channel["bindings"]["kafka"]
        created = dict(CONFIGS[name])
        assert channel["address"] == f"{DEFAULT_TOPIC_PREFIX}.{name}"
        assert binding["partitions"] == DEFAULT_PARTITIONS
        assert binding["topicConfiguration"] == {
            key: [value] if key == "cleanup.policy" else int(value)
            for key, value in created.items()
            if key in ("cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes")
        }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_member_is_described(file: Path) -> None:
    def walk(part: Any, at: str) -> None:
        if isinstance(part, dict):
            for name, member in part.get("properties", {}).items():
                if at.endswith(("/if", "/then")) or member is False:
                    continue
                assert member.get("description"), f"{at}/{name}"
            for name, value in part.items():
                walk(value, f"{at}/{name}")
        elif isinstance(part, list):
            for index, value in enumerate(part):
                walk(value, f"{at}/{index}")

    walk(json.loads(file.read_text()), file.name)
