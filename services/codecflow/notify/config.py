"""The configuration file of notifications: TOML, a table per sink."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from codecflow.errors import ConfigError
from codecflow.messages import EVENT_KINDS
from codecflow.text import one_line

from .filter import EventFilter
from .schedule import Schedule, zone_of
from .sink import Sink, SinkOptions
from .template import DEFAULT_TEXT, Text
from .webhook import Webhook

CHANGES = ("opened", "updated", "closed")

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_TOPIC = re.compile(r"[^/+#$\x00-\x1f][^+#\x00-\x1f]{0,199}(?<!/)")
_LIST_OR_TABLE, _NUMBER = (list, dict), (int, float)
_COMMON: dict[str, Any] = {
    **dict.fromkeys(("name", "text", "zone"), str),
    **dict.fromkeys(("streams", "questions", "kinds", "changes"), list),
    "times": _LIST_OR_TABLE,
    "timeout_s": _NUMBER,
    "picture": bool,
}
_EXPECTED: dict[Any, str] = {
    str: "a text",
    list: "a list of texts",
    bool: "true or false",
    _LIST_OR_TABLE: "a list or a table of lists",
    _NUMBER: "a number",
}


@dataclass(frozen=True, slots=True)
class NotifyConfig:
    """`evidence`: where the recorder writes; its pictures are then used."""

    sinks: list[Sink]
    evidence: str | None = None


def read_config(path: Path) -> NotifyConfig:
    """The sinks in a file. Raises ConfigError, which names the file and the sink and repeats no secret."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {one_line(str(error), 200)}") from error
    evidence = document.pop("evidence", None)
    if evidence is not None and not (isinstance(evidence, str) and evidence):
        raise ConfigError(f"{path}: evidence: the recorder's folder or address is expected")
    sinks = []
    for kind, (members, make) in _KINDS.items():
        tables = document.pop(kind, [])
        if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
            raise ConfigError(f"{path}: use a table [[{kind}]] per sink")
        sinks += [_sink(path, kind, members, make, number, table) for number, table in enumerate(tables, 1)]
    known = ", ".join(f"[[{kind}]]" for kind in _KINDS)
    if document:
        raise ConfigError(f"{path}: {one_line(next(iter(document)), 60)}: is not known; use {known} and evidence")
    if not sinks:
        raise ConfigError(f"{path}: there is no sink; use {known}")
    names = [sink.options.name for sink in sinks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"{path}: two sinks are called {name!r}: each needs a unique name, under which its position is kept"
            )
    return NotifyConfig(sinks, evidence)


def _sink(
    path: Path,
    kind: str,
    members: dict[str, Any],
    make: Callable[[SinkOptions, dict[str, Any]], Sink],
    number: int,
    table: dict[str, Any],
) -> Sink:
    name = table.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: [[{kind}]] {number}: needs a name of a to z, 0 to 9 and -, at most 40 characters")
    try:
        _check(table, {**_COMMON, **members})
        return make(_options(name, table), table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {kind} {name!r}: {error}") from error
    except ImportError as error:
        raise ConfigError(
            f"{path}: {kind} {name!r}: {error.name} is not installed: pip install 'codecflow[notify]'"
        ) from error


def _check(table: dict[str, Any], members: dict[str, Any]) -> None:
    for member, value in table.items():
        kind = members.get(member)
        if kind is None:
            raise ConfigError(f"{one_line(member, 60)!r} is not known; use {', '.join(members)}")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{member} must be {_EXPECTED[kind]}")
        if isinstance(value, list) and not (value and all(isinstance(one, str) for one in value)):
            raise ConfigError(f"{member} must be a list of texts that is not empty")


def _options(name: str, table: dict[str, Any]) -> SinkOptions:
    timeout_s = float(table.get("timeout_s", 10.0))
    if not 0.1 <= timeout_s <= 300:
        raise ConfigError("timeout_s must be 0.1 to 300 seconds")
    zone = zone_of(table.get("zone", "UTC"))
    wanted = EventFilter(
        tuple(table.get("streams", ("*",))),
        tuple(table.get("questions", ())),
        _among("kinds", table.get("kinds", list(EVENT_KINDS)), EVENT_KINDS),
        _among("changes", table.get("changes", ["opened", "closed"]), CHANGES),
        Schedule.parse(table["times"]) if "times" in table else Schedule(),
        zone,
    )
    text = Text.parse(table.get("text", DEFAULT_TEXT), zone)
    return SinkOptions(name, wanted, text, timeout_s, table.get("picture", False))


def _among(member: str, values: list[str], known: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value not in known:
            raise ConfigError(f"{member}: {one_line(value, 60)!r} is unknown; use some of {', '.join(known)}")
    return tuple(values)


def _webhook(options: SinkOptions, table: dict[str, Any]) -> Sink:
    url = _url(table)
    if _split(url, "http", "https") is None:
        raise ConfigError("its address must begin with http:// or https:// and name a host")
    secret = _file("secret_file", table["secret_file"]) if "secret_file" in table else None
    if secret is not None and len(secret) < 16:
        raise ConfigError(f"the secret in {table['secret_file']} has less than 16 bytes")
    return Webhook(options, url, secret)


def _mqtt(options: SinkOptions, table: dict[str, Any]) -> Sink:
    from .mqtt import Mqtt, MqttOptions

    parts = _split(_url(table), "mqtt", "mqtts")
    if parts is None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError("its address must be mqtt://HOST or mqtts://HOST, with :PORT if need be")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("its address must not hold a user; use username and password_file")
    if "password_file" in table and "username" not in table:
        raise ConfigError("password_file needs a username")
    tls = parts.scheme == "mqtts"
    if "ca_file" in table and not tls:
        raise ConfigError("ca_file needs an address that begins with mqtts://")
    topics = [table.get("topic", "codecflow"), table.get("discovery", "homeassistant")]
    for topic in topics:
        if topic and not _TOPIC.fullmatch(topic):
            raise ConfigError(f"{one_line(topic, 60)!r} cannot be a topic prefix: use a/b without +, # and $")
    if not topics[0]:
        raise ConfigError("topic must not be empty")
    password = (
        _file("password_file", table["password_file"]).decode("utf-8", "replace") if "password_file" in table else None
    )
    broker = MqttOptions(
        parts.hostname or "",
        parts.port or (8883 if tls else 1883),
        tls,
        Path(table["ca_file"]) if "ca_file" in table else None,
        table.get("username"),
        password,
        topics[0],
        topics[1] or None,
    )
    return Mqtt(options, broker)


def _apprise(options: SinkOptions, table: dict[str, Any]) -> Sink:
    from .apprise_sink import Apprise

    return Apprise(options, _url(table))


_ADDRESS = {"url": str, "url_file": str}
_KINDS: dict[str, tuple[dict[str, Any], Callable[[SinkOptions, dict[str, Any]], Sink]]] = {
    "webhook": ({**_ADDRESS, "secret_file": str}, _webhook),
    "mqtt": (
        {**_ADDRESS, **dict.fromkeys(("username", "password_file", "ca_file", "topic", "discovery"), str)},
        _mqtt,
    ),
    "apprise": (_ADDRESS, _apprise),
}


def _url(table: dict[str, Any]) -> str:
    if ("url" in table) == ("url_file" in table):
        raise ConfigError("give one of url and url_file")
    url: str = table["url"] if "url" in table else _file("url_file", table["url_file"]).decode("utf-8", "replace")
    return url.strip()


def _split(url: str, *schemes: str) -> SplitResult | None:
    """The parts of an address that has one of these schemes and a host."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if good and not any(character <= " " for character in url) else None


def _file(member: str, name: str) -> bytes:
    try:
        return Path(name).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{member} {one_line(name, 200)}: {(error.strerror or 'cannot be read').lower()}") from error
