"""Zones of a stream: read from a file, and published to replace the previous ones. Workers apply them at its next window."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codecflow.errors import ConfigError
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import StreamDescription, Zone, check_zones
from codecflow.text import one_line

from .questions import read_description, write

_MAX_BYTES = 1 << 20
_MEMBERS = {"name", "use", "polygon"}


def set_zones(settings: KafkaSettings, stream: str, zones: Sequence[Zone]) -> StreamDescription:
    """Replace the zones of `stream` by `zones`; its questions stay. Returns the new description. Raises ConfigError,
    KafkaError, and MessageError when the stored one has another version."""
    return write(settings, replace(read_description(settings, stream), zones=tuple(zones)))


def add_zone(settings: KafkaSettings, stream: str, zone: Zone) -> StreamDescription:
    """Add a zone to `stream`, replacing one with the same name. As set_zones."""
    description = read_description(settings, stream)
    kept = (one for one in description.zones if one.name != zone.name)
    return write(settings, replace(description, zones=(*kept, zone)))


def remove_zone(settings: KafkaSettings, stream: str, name: str) -> StreamDescription:
    """Remove a zone of `stream`. As set_zones; raises ConfigError if none has this name."""
    description = read_description(settings, stream)
    kept = tuple(one for one in description.zones if one.name != name)
    if len(kept) == len(description.zones):
        raise ConfigError(f"stream {stream}: has no zone {one_line(name, 60)!r}")
    return write(settings, replace(description, zones=kept))


def read_zones(path: Path) -> tuple[Zone, ...]:
    """The zones in a JSON file: `[{"name": "gate", "use": "place", "polygon": [[0.1, 0.6], [0.4, 0.6], [0.4, 1]]}, ...]`.

    Raises ConfigError, which names the file and the zone.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        entries = json.loads(content) if len(content) <= _MAX_BYTES else None
    except OSError as error:
        raise ConfigError(f"zones {path}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"zones {path}: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"zones {path}: this is not JSON in UTF-8") from error
    if not isinstance(entries, list):
        raise ConfigError(
            f'zones {path}: a list is expected, such as [{{"name": "street", "use": "ignore", "polygon": '
            f"[[0, 0], [1, 0], [1, 0.3]]}}]"
        )
    zones = tuple(zone_of(f"zones {path}: zone {number}", entry) for number, entry in enumerate(entries, start=1))
    check_zones(f"zones {path}", zones)
    return zones


def zone_of(what: str, entry: Any) -> Zone:
    """The zone in an object with name, use and polygon. Raises ConfigError, whose text begins with `what`."""
    if not isinstance(entry, dict) or not all(isinstance(name, str) for name in entry):
        raise ConfigError(f"{what}: an object with name, use and polygon is expected")
    if unknown := sorted(entry.keys() - _MEMBERS):
        raise ConfigError(f"{what}: unknown member {one_line(unknown[0], 60)!r}; allowed are name, use, polygon")
    if missing := sorted(_MEMBERS - entry.keys()):
        raise ConfigError(f"{what}: {', '.join(missing)} missing")
    name, use, corners = entry["name"], entry["use"], entry["polygon"]
    if not isinstance(name, str) or not isinstance(use, str):
        raise ConfigError(f"{what}: name and use are texts")
    if not isinstance(corners, list) or not all(
        isinstance(corner, list) and len(corner) == 2 and all(type(x) in (int, float) for x in corner)
        for corner in corners
    ):
        raise ConfigError(f"{what}: polygon is a list of corners [x, y], shares of the picture's width and height")
    try:
        return Zone(name, use, tuple((float(x), float(y)) for x, y in corners))  # type: ignore[arg-type]  # Zone checks
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    except OverflowError as error:
        raise ConfigError(f"{what}: a corner lies outside the picture") from error
