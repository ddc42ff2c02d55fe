"""Log output of commands on stderr: lines for people, or JSON documents, one per line, for log collectors."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from codecflow.errors import ConfigError
from codecflow.text import escape_controls, one_line

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
FORMATS = ("text", "json")
_MEMBERS = ("stream", "epoch", "window", "status")
"""Fields of a line in addition to its text: what it refers to, and the exit status of an error."""

_bound: dict[str, object] = {}


class Notice(str):
    """A line for people that carries its context: `stream`, `epoch` and `window`, where they apply. When printed, it is just
    the line."""

    about: Mapping[str, object]

    def __new__(cls, line: str, **about: object) -> Notice:
        notice = super().__new__(cls, line)
        notice.about = about
        return notice


def bind(**about: object) -> None:
    """Sets the default context for all further lines of this process: a producer has one stream."""
    _bound.update(about)


def as_json() -> bool:
    """Whether lines are JSON documents (CODECFLOW_LOG_FORMAT=json)."""
    return os.environ.get("CODECFLOW_LOG_FORMAT") == "json"


def configure(safe: Callable[[str], str] = lambda text: text) -> None:
    """Configures logging to stderr from the environment. `safe`: removes secrets from a text.

    CODECFLOW_LOG: debug (with librdkafka's own lines), info, warning or error. CODECFLOW_LOG_FORMAT: text or json; with json
    an error that ends a command unexpectedly is one document too. Raises ConfigError for anything else.
    """
    _bound.clear()
    level, chosen = os.environ.get("CODECFLOW_LOG", "warning"), os.environ.get("CODECFLOW_LOG_FORMAT", "text")
    if level.upper() not in LEVELS:
        raise ConfigError(f"CODECFLOW_LOG={level}: use debug, info, warning or error")
    if chosen not in FORMATS:
        raise ConfigError(f"CODECFLOW_LOG_FORMAT={chosen}: use text or json")
    if level.upper() != "DEBUG":
        # Read when the hub's client is imported: each retry would log a line before our error message.
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    handler = logging.StreamHandler()
    handler.setFormatter(_Json(safe) if chosen == "json" else _Text(safe))
    logger = logging.getLogger("codecflow")
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    if chosen == "json":
        logger.propagate = False
        logging.getLogger().addHandler(handler)  # logs of libraries
        logging.captureWarnings(True)
        sys.excepthook = _unexpected
        threading.excepthook = lambda hook: _unexpected(hook.exc_type, hook.exc_value, hook.exc_traceback)


def notice(line: str, level: str = "info", **about: object) -> None:
    """Writes a line of the command itself, whatever CODECFLOW_LOG is: `codecflow: line`, or JSON. `line` has no secrets."""
    about = {**(line.about if isinstance(line, Notice) else {}), **about}
    text = one_line(line)
    text = _document(level, "codecflow", text, about) if as_json() else f"codecflow: {text}"
    print(text, file=sys.stderr, flush=True)


class _Text(logging.Formatter):
    def __init__(self, safe: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._safe = safe

    def format(self, record: logging.LogRecord) -> str:
        return self._safe(super().format(record))


class _Json(logging.Formatter):
    """The context of a line is `about` in its record's `extra`."""

    def __init__(self, safe: Callable[[str], str]) -> None:
        super().__init__()
        self._safe = safe

    def format(self, record: logging.LogRecord) -> str:
        stacks = [self.formatException(record.exc_info)] if record.exc_info else []
        return _document(
            record.levelname.lower(),
            record.name,
            one_line(self._safe(record.getMessage())),
            getattr(record, "about", {}),
            self._safe("\n".join(stacks)),
            record.created,
        )


def _document(
    level: str,
    logger: str,
    message: str,
    about: Mapping[str, object] | None = None,
    traceback: str = "",
    at_s: float | None = None,
) -> str:
    at = datetime.now(UTC) if at_s is None else datetime.fromtimestamp(at_s, UTC)
    known: dict[str, Any] = {**_bound, **(about or {})}
    document: dict[str, object] = {
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "logger": logger,
        "message": message,
        **{name: known[name] for name in _MEMBERS if known.get(name) is not None},
    }
    if traceback:
        document["traceback"] = traceback
    return escape_controls(json.dumps(document, ensure_ascii=False))


def _unexpected(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    logging.getLogger("codecflow").critical("unexpected: %s", kind.__name__, exc_info=(kind, error or kind(), trace))
