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

BORDER = 3
"""Columns that a column of the table needs in addition to its text: a line and two spaces."""


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> None:
    """A table of `columns`: the first holds names, the others figures, already rounded or formatted by the caller.

    Text is shown literally: file names and questions may contain brackets and colons, which rich would interpret as markup.
    What is too wide for the terminal continues in a second table with the same names.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    cells = [[str(cell) for cell in row] for row in rows]
    texts = [[column, *(row[index] for row in cells)] for index, column in enumerate(columns)]
    longest = [max(map(len, column)) for column in texts]
    words = [longest[0], *(max(len(word) for text in column for word in text.split() or [""]) for column in texts[1:])]
    parts = _parts(words, console.width)
    for number, part in enumerate(parts):
        table = Table(
            title=title if number == 0 else None,
            caption=note if note and number == len(parts) - 1 else None,
            title_justify="left",
            caption_justify="left",
        )
        spare = console.width - 1 - sum(BORDER + words[index] for index in part)
        for index in part:
            more = max(0, min(spare, longest[index] - words[index]))
            spare -= more
            table.add_column(columns[index], justify="left" if index == 0 else "right", width=words[index] + more)
        for row in cells:
            table.add_row(*(row[index] for index in part))
        console.print(table)


def _parts(widths: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each table of at most `width`, the first column in all of them. `widths`: what each needs."""
    parts = [[0]]
    for index in range(1, len(widths)):
        if len(parts[-1]) > 1 and 1 + sum(BORDER + widths[other] for other in (*parts[-1], index)) > width:
            parts.append([0])
        parts[-1].append(index)
    return parts


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
