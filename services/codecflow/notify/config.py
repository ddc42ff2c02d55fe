"""The file that says whom to tell what: TOML, one table per sink."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from codecflow.errors import ConfigError
from codecflow.messages import EVENT_KINDS, Event
from codecflow.text import one_line

from .schedule import Times, due, zone_of

CHANGES = ("opened", "updated", "closed")
PLACEHOLDERS = (
    "stream",
    "change",
    "kind",
    "question",
    "prompt",
    "label",
    "before",
    "probability",
    "reason",
    "time",
    "id",
)
DEFAULT_TEXT = "$stream: $change: $question $label ($reason), $time"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_MEMBERS = {
    **dict.fromkeys(("name", "url", "url_file", "secret_file", "text", "zone"), str),
    **dict.fromkeys(("streams", "questions", "kinds", "changes", "times"), list),
    "timeout_s": (int, float),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events a sink is told of: names may have * and ?. Without `questions` those of the stream itself as well.
    `times` are of the moment when an event began, so that its end is told if its beginning was."""

    streams: tuple[str, ...]
    questions: tuple[str, ...]
    kinds: tuple[str, ...]
    changes: tuple[str, ...]
    times: tuple[Times, ...]
    zone: ZoneInfo

    def takes(self, event: Event) -> bool:
        return (
            event.change in self.changes
            and event.kind in self.kinds
            and any(fnmatchcase(event.stream, pattern) for pattern in self.streams)
            and (not self.questions or any(fnmatchcase(event.question or "", one) for one in self.questions))
            and due(self.times, datetime.fromtimestamp(event.began_at_ms / 1000, self.zone))
        )


@dataclass(frozen=True, slots=True, repr=False)
class Webhook:
    """A sink. Its repr shows neither its address, which may hold a token, nor its secret."""

    name: str
    url: str
    secret: bytes | None
    text: str
    wanted: Wanted
    timeout_s: float

    def __repr__(self) -> str:
        return f"Webhook({self.name!r})"

    @property
    def host(self) -> str:
        """Of its address: all of it that may be shown."""
        return urlsplit(self.url).hostname or ""

    def words(self, event: Event) -> str:
        """The text for people."""
        then = datetime.fromtimestamp(event.at_ms / 1000, self.wanted.zone)
        values = {name: getattr(event, name, None) for name in PLACEHOLDERS if name != "time"}
        if event.probability is not None:
            values["probability"] = f"{event.probability:.2f}"
        values["question"] = event.question or event.kind
        shown = {name: "" if value is None else str(value) for name, value in values.items()}
        return " ".join(Template(self.text).substitute(shown, time=f"{then:%Y-%m-%d %H:%M:%S %Z}").split())


def read_config(path: Path) -> list[Webhook]:
    """The sinks in a file. Raises ConfigError, which names the file and the sink and repeats no secret."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {one_line(str(error), 200)}") from error
    tables = document.pop("webhook", [])
    if document:
        raise ConfigError(f"{path}: {one_line(next(iter(document)), 60)}: is not known; use [[webhook]] tables")
    if not isinstance(tables, list) or not tables or not all(isinstance(one, dict) for one in tables):
        raise ConfigError(f"{path}: there is no [[webhook]] table, so nobody would be told")
    sinks = [_webhook(path, number, table) for number, table in enumerate(tables, 1)]
    names = [sink.name for sink in sinks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"{path}: two sinks are called {name!r}: give each a name of its own, which its position has"
            )
    return sinks


def _webhook(path: Path, number: int, table: dict[str, Any]) -> Webhook:
    where = f"{path}: [[webhook]] {number}"
    name = table.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: needs a name of a to z, 0 to 9 and -, at most 40 characters")
    where = f"{path}: webhook {name!r}"
    for member, value in table.items():
        kind = _MEMBERS.get(member)
        if kind is None:
            raise ConfigError(f"{where}: {one_line(member, 60)!r} is not known; use {', '.join(_MEMBERS)}")
        if not isinstance(value, kind) or isinstance(value, bool):  # type: ignore[arg-type]
            raise ConfigError(f"{where}: {member} is not what is expected: text, a list of texts, or seconds")
        if isinstance(value, list) and not (value and all(isinstance(one, str) for one in value)):
            raise ConfigError(f"{where}: {member} must be a list of texts that is not empty")
    if ("url" in table) == ("url_file" in table):
        raise ConfigError(f"{where}: give one of url and url_file")
    url = table["url"] if "url" in table else _file(where, "url_file", table["url_file"]).decode("utf-8", "replace")
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or any(character <= " " for character in url.strip()):
        raise ConfigError(f"{where}: its address must begin with http:// or https:// and name a host")
    secret = _file(where, "secret_file", table["secret_file"]) if "secret_file" in table else None
    if secret is not None and len(secret) < 16:
        raise ConfigError(f"{where}: the secret in {table['secret_file']} has less than 16 bytes")
    text = Template(table.get("text", DEFAULT_TEXT))
    if not text.is_valid() or not set(text.get_identifiers()) <= set(PLACEHOLDERS):
        raise ConfigError(
            f"{where}: text: use $ only in {', '.join(f'${one}' for one in PLACEHOLDERS)}, and $$ for a $"
        )
    timeout_s = float(table.get("timeout_s", 10.0))
    if not 0.1 <= timeout_s <= 300:
        raise ConfigError(f"{where}: timeout_s must be 0.1 to 300 seconds")
    try:
        times, zone = tuple(Times.parse(one) for one in table.get("times", ())), zone_of(table.get("zone", "UTC"))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    wanted = Wanted(
        tuple(table.get("streams", ("*",))),
        tuple(table.get("questions", ())),
        _among(where, "kinds", table.get("kinds", list(EVENT_KINDS)), EVENT_KINDS),
        _among(where, "changes", table.get("changes", ["opened", "closed"]), CHANGES),
        times,
        zone,
    )
    return Webhook(name, url.strip(), secret, text.template, wanted, timeout_s)


def _among(where: str, member: str, values: list[str], known: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value not in known:
            raise ConfigError(f"{where}: {member}: {one_line(value, 60)!r} never comes; use of {', '.join(known)}")
    return tuple(values)


def _file(where: str, member: str, name: str) -> bytes:
    try:
        return Path(name).read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"{where}: {member} {one_line(name, 200)}: {(error.strerror or 'cannot be read').lower()}"
        ) from error
