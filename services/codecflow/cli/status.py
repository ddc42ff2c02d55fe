"""The status line of a service on the command line."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import typer

from codecflow import logs
from codecflow.codec.addresses import redact
from codecflow.errors import CodecFlowError
from codecflow.text import escape_controls, one_line


class _Summary(Protocol):
    error: str | None

    @property
    def empty(self) -> bool:
        """Nothing was done yet."""
        ...

    def line(self) -> str: ...

    def document(self) -> Mapping[str, object]: ...


class StatusLine:
    """A line on stderr that renews itself on a terminal; elsewhere a plain line every `every_s` seconds.

    `opening`: what a terminal shows until there is a summary.
    """

    def __init__(self, opening: str, every_s: float) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        renewed = self._console.is_terminal and not logs.as_json()
        self._live = self._console.status(opening) if renewed else None
        self._every_s = every_s
        self._next = 0.0

    def __enter__(self) -> StatusLine:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, summary: _Summary) -> None:
        if self._live:
            self._live.update(summary.line())
        elif time.monotonic() >= self._next:
            if self._next:
                _echo(summary.line())
            self._next = time.monotonic() + self._every_s

    def notice(self, line: str) -> None:
        about = line.about if isinstance(line, logs.Notice) else {}
        logs.notice(logs.Notice(redact(line, sys.argv[1:]), **about))


def _echo(line: str) -> None:
    """A line of figures on stderr."""
    if logs.as_json():
        logs.notice(line)
    else:
        typer.echo(line, err=True)


@contextmanager
def last_words(summary: _Summary, as_json: bool) -> Iterator[None]:
    """However the run within ends, its summary is printed: a line and, `as_json`, one JSON document on stdout, which names
    the error. The error itself goes on."""
    try:
        yield
    except CodecFlowError as error:
        summary.error = one_line(redact(str(error), sys.argv[1:]))
        raise
    except Exception as error:
        summary.error = f"unexpected: {type(error).__name__}"
        raise
    finally:
        if as_json or not summary.empty or summary.error is None:
            if as_json:
                _echo(summary.line())
            else:
                typer.echo(summary.line())
        if as_json:
            print_json(summary.document())


def print_json(document: Mapping[str, object]) -> None:
    """One JSON document on stdout, safe on a terminal. Never fails: what JSON does not know becomes text, or null where it
    is no number."""
    typer.echo(escape_controls(json.dumps(_plain(document), ensure_ascii=False)))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
