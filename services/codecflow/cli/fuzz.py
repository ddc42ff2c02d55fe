"""`codecflow fuzz`: damaged and hostile input, for developers."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("fuzz", hidden=True)(fuzz)


def fuzz(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="wire (records, settings, addresses) or bitstreams (coded video).")
    ],
    *,
    cases: Annotated[int, typer.Option(min=1, help="How many.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of all chance; the same seed gives the same cases.")] = 0,
    case: Annotated[int | None, typer.Option(min=0, help="Only this one, in this process, with its traceback.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Side by side.")] = 1,
) -> None:
    """Look for input that raises what it should not, takes more than 2 s, or more than 1 GiB of memory.

    For developers. A table, then one JSON line; exit 1 where something was found.
    """
    from codecflow.tools.fuzz.run import again, run

    if case is not None:
        again(kind, seed=seed, case=case)
    elif not run(kind, cases=cases, seed=seed, processes=processes):
        raise typer.Exit(1)
