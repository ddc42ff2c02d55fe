"""SQL over rows: an in-memory DuckDB table without file access except to the output file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from codecflow.errors import ConfigError
from codecflow.text import one_line

_AT_ONCE = 20_000


class Table:
    """The table `kept` of `columns` (name to SQL type), ordered by the first one, a time. A context manager.

    `where`: a condition over the columns, None for all rows; its times are in `zone`, None being this machine's. `out`: the
    file that `write_parquet` may write. Raises ConfigError if the extra is missing, or the condition is invalid.
    """

    def __init__(
        self, columns: Mapping[str, str], where: str | None, out: Path | None = None, zone: str | None = None
    ) -> None:
        try:
            import duckdb
        except ImportError as error:
            raise ConfigError(
                "--where and Parquet need the extra: pip install 'codecflow[history]'; without it use --question, "
                "--changes and --format json"
            ) from error
        self._errors = (duckdb.IOException, duckdb.Error)
        self._names = list(columns)
        self._by = self._names[0]
        # Nothing is loaded over the network.
        self._client = duckdb.connect(
            config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        )
        described = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        self._client.execute(f"create table kept (place BIGINT, row VARCHAR, {described})")
        self._structure = orjson.dumps([{"place": "BIGINT", "row": "VARCHAR", **columns}]).decode()
        self._out = out
        if out is not None:
            self._client.execute(f"set allowed_paths = [{_quoted(str(out))}]")
        if zone is not None:
            try:
                self._client.execute(f"set TimeZone = {_quoted(zone)}")
            except duckdb.Error as error:
                raise ConfigError(
                    f"--zone {zone!r}: DuckDB does not know it; use a name such as Europe/Berlin"
                ) from error
        self._client.execute("set enable_external_access = false")
        self._client.execute("set lock_configuration = true")
        self._count = 0
        # On a new line, since a condition may end with a comment.
        self._chosen = "from kept" if where is None else f"from kept where ({where}\n)"
        self._checked(where)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        rows = iter(rows)
        while batch := list(islice(rows, _AT_ONCE)):
            documents = [
                {**one, "place": self._count + n, "row": orjson.dumps(one).decode()} for n, one in enumerate(batch)
            ]
            self._count += len(batch)
            self._client.execute(
                f"insert into kept select unnest(from_json(?::JSON, {_quoted(self._structure)}), recursive := true)",
                [orjson.dumps(documents).decode()],
            )

    def rows(self, newest: int | None = None) -> Iterator[dict[str, Any]]:
        """Rows that match the condition, oldest first; at most the `newest` of them."""
        inner = f"select place, {self._by}, row {self._chosen}{self._newest(newest)}"
        found = self._run(f"select row from ({inner}) order by {self._by}, place")
        while batch := self._refusing(lambda: found.fetchmany(_AT_ONCE)):
            for (text,) in batch:
                yield orjson.loads(text)

    def write_parquet(self, newest: int | None = None) -> int:
        """As `rows`, to `out`; returns how many. Raises OSError."""
        names = ", ".join(f'"{name}"' for name in self._names)
        inner = f"select place, {names} {self._chosen}{self._newest(newest)}"
        found = self._run(
            f"copy (select {names} from ({inner}) order by {self._by}, place) to {_quoted(str(self._out))} "
            "(format parquet, compression zstd)"
        )
        return int(found.fetchall()[0][0])

    def _newest(self, count: int | None) -> str:
        return "" if count is None else f" order by {self._by} desc, place desc limit {count}"

    def _checked(self, where: str | None) -> None:
        """Checks that `where` is one condition over these columns."""
        if where is None:
            return
        statements = self._refusing(lambda: self._client.extract_statements(f"select ({where}\n)"))
        if len(statements) != 1:
            raise ConfigError(f"--where {one_line(where, 100)!r}: one condition is expected")
        self._run(f"select count(*) {self._chosen}")

    def _run(self, sql: str) -> Any:
        return self._refusing(lambda: self._client.execute(sql))

    def _refusing(self, call: Callable[[], Any]) -> Any:
        """The result of `call`. Raises ConfigError for a condition that does not fit the columns, OSError for a file."""
        try:
            return call()
        except self._errors[0] as error:
            raise OSError(one_line(str(error), 300)) from error
        except self._errors[1] as error:
            text = one_line(str(error).partition("\n\nLINE")[0], 300)
            raise ConfigError(f"--where: {text}; columns: {', '.join(self._names)}") from error


def _quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
