"""`codecflow history`: the answers that Kafka still holds, as a table or a file."""

from __future__ import annotations

import csv
import heapq
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from codecflow import logs
from codecflow.errors import ConfigError
from codecflow.text import escape_controls, one_line, visible

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings

if TYPE_CHECKING:
    from codecflow.subscriber.query import Table

_FORMATS = ("table", "json", "csv", "parquet")
_SUFFIXES = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".parquet": "parquet"}
_TABLE_ROWS = 100
_PIPED_WIDTH = 180


def register(app: typer.Typer) -> None:
    app.command("history")(history)


def history(
    stream: Annotated[str | None, typer.Argument(help="Stream id.  [default: all streams]", show_default=False)] = None,
    *,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Captured at this time or later: 90m, 12h, 3d ago; a time of day such as 22:00, today's or yesterday's; "
            "2026-11-28 or 2026-11-28T22:00+01:00.  [default: all that is kept]",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="T", help="Captured before this time, in the format of --since.")
    ] = None,
    question: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only answers to this question. May be repeated.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="A condition over the columns, such as \"answer = 'yes' and p_yes > 0.9\" (extra: history).",
        ),
    ] = None,
    changes: Annotated[
        bool, typer.Option("--changes", help="Only answers that differ from the previous one to the same question.")
    ] = False,
    events: Annotated[
        bool, typer.Option("--events", help="Changes of events (opened, updated, closed) instead of answers.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=10**9, help=f"How many of the newest.  [default: {_TABLE_ROWS} in a table, else all]"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="table, json (a document per line), csv or parquet (extra: history).  [default: as --out ends, else table]",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.  [default: standard output]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    zone: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Time zone of all times, such as Europe/Berlin.  [default: this machine's]"),
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Answers that Kafka still holds, or events: "when was anyone at the gate last night" is

    codecflow history gate --since 22:00 --until 06:00 --question person --where "answer = 'yes'"
    """
    from codecflow.subscriber.history import EVENTS, RESULTS, History
    from codecflow.subscriber.history import changes as changed
    from codecflow.subscriber.query import Table
    from codecflow.subscriber.times import parse_span, zone_of

    kind = _format(output, out)
    where_at = zone_of(zone)
    since_ms, until_ms = parse_span(since, until, where_at)
    if events and changes:
        raise ConfigError("history: --changes is of answers; an event is a change already")
    newest = limit if limit is not None or kind != "table" else _TABLE_ROWS
    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    with _writing(out, force) as path:
        # A condition that is none is refused before anything is read.
        kept: Any = EVENTS if events else RESULTS
        table = Table(kept.columns, where, path, zone) if where is not None or kind == "parquet" else None
        found = History(settings, kept, stream, since_ms, until_ms)
        chosen = (one for one in found if not question or one.question in question)
        rows = ((kept.at_ms(one), kept.row(one, where_at)) for one in (changed(chosen) if changes else chosen))
        count = _write(kind, list(kept.columns), rows, table, newest, path)
    if found.unreadable:
        logs.notice(f"{found.unreadable} records on {found.topic} are not of its kind and are left out", "warning")
    if kind == "parquet" or path is not None:
        logs.notice(f"{out}: {count} rows")


def _format(output: str | None, out: Path | None) -> str:
    kind = output or (_SUFFIXES.get(out.suffix.lower(), "") if out is not None else "table")
    if kind not in _FORMATS:
        named = f"--format {output}" if output else f"{out}: its name does not say a format"
        raise ConfigError(f"{named}: use --format {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")
    if kind == "parquet" and out is None:
        raise ConfigError("--format parquet: name a file to write with -o")
    return kind


@contextmanager
def _writing(out: Path | None, force: bool) -> Iterator[Path | None]:
    """Where to write: a file that takes the place of `out` once all of it is there."""
    if out is None:
        yield None
        return
    if os.path.exists(out) and not force:
        raise ConfigError(f"{out}: already exists; choose another name with -o, or overwrite it with --force")
    if not os.path.isdir(out.parent):
        raise ConfigError(f"{out}: there is no folder {out.parent}")
    part = out.with_name(f".{out.name}.{os.getpid()}.part").absolute()
    try:
        yield part
        part.replace(out)
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _write(
    kind: str,
    columns: list[str],
    rows: Iterable[tuple[int, dict[str, Any]]],
    table: Table | None,
    newest: int | None,
    path: Path | None,
) -> int:
    """Write what is asked for, of rows with their times; how many rows. Closes `table`."""
    if table is not None:
        with table:
            table.add(one for _, one in rows)
            if kind == "parquet":
                return table.write_parquet(newest)
            return _write_text(kind, columns, table.rows(newest), path)
    if newest is None:
        return _write_text(kind, columns, (one for _, one in rows), path)
    numbered = ((at_ms, number, one) for number, (at_ms, one) in enumerate(rows))
    kept = heapq.nlargest(newest, numbered, key=lambda x: x[:2])
    return _write_text(kind, columns, (one for _, _, one in reversed(kept)), path)


def _write_text(kind: str, columns: list[str], rows: Iterable[dict[str, Any]], path: Path | None) -> int:
    write: Callable[[list[str], Iterable[dict[str, Any]], TextIO], int]
    write = {"table": _table, "json": _json, "csv": _csv}[kind]
    if path is None:
        return write(columns, rows, sys.stdout)
    with path.open("w", encoding="utf-8", newline="") as file:
        return write(columns, rows, file)


def _json(columns: list[str], rows: Iterable[dict[str, Any]], file: TextIO) -> int:
    import orjson

    count = 0
    for count, one in enumerate(rows, 1):  # noqa: B007
        file.write(escape_controls(orjson.dumps(one).decode()) + "\n")
    return count


def _csv(columns: list[str], rows: Iterable[dict[str, Any]], file: TextIO) -> int:
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    count = 0
    for count, one in enumerate(rows, 1):  # noqa: B007
        writer.writerow({name: visible(value) if isinstance(value, str) else value for name, value in one.items()})
    return count


def _table(columns: list[str], rows: Iterable[dict[str, Any]], file: TextIO) -> int:
    from rich.console import Console
    from rich.table import Table as Shown
    from rich.text import Text

    events = "change" in columns
    shown = Shown(box=None, pad_edge=False)
    for name in (
        ("happened at", "stream", "about", "change") if events else ("captured at", "stream", "question", "answer")
    ):
        shown.add_column(name)
    shown.add_column("probability", justify="right")
    if events:
        shown.add_column("reason")
    found = list(rows)
    for one in found:
        probability = "" if one["probability"] is None else f"{one['probability']:.2f}"
        words = [one[columns[0]][:19].replace("T", " "), one["stream"]]
        if events:
            words += [one["question"] or one["kind"], one["change"], probability, one["reason"]]
        else:
            answer = one["answer"] if one["error"] is None else f"no answer: {one['error_text']} ({one['error']})"
            words += [one["question"], answer, probability]
        shown.add_row(*(Text(one_line(word, 200)) for word in words))
    console = Console(file=file)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    console.print(shown if found else "no events" if events else "no answers")
    return len(found)
