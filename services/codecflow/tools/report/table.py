"""Output of every benchmark: a table for people, then one JSON line for machines, both on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

PIPED_WIDTH = 140
"""Width of the table in columns if standard output is not a terminal."""


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> None:
    """A table of `columns`: the first holds names, the others figures, already rounded or formatted by the caller.

    Text is shown literally: file names and questions may contain brackets and colons, which rich would interpret as markup.
    """
    table = Table(title=title, caption=note or None, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table)


def display_names(files: Sequence[Path]) -> list[str]:
    """The name of each of `files` in tables: its file name, or its path if another one has the same name."""
    names = [file.name for file in files]
    return [name if names.count(name) == 1 else str(file) for name, file in zip(names, files, strict=True)]


def print_json(figures: Mapping[str, object]) -> None:
    """Prints `figures` on one line: the last output of a benchmark."""
    sys.stdout.flush()
    sys.stdout.write(orjson.dumps(figures, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


def progress(unit: str = "s") -> Progress:
    """A progress display in `unit` on standard error, removed at the end; none if that is not a terminal."""
    console = Console(stderr=True, markup=False, emoji=False)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.completed:.0f} " + unit + " done,", markup=False),
        TimeElapsedColumn(),
        TextColumn("so far", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
