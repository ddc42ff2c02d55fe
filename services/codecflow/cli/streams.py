"""`codecflow streams`: all streams in one table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from codecflow import logs
from codecflow.text import one_line

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings
from .status import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from codecflow.subscriber.fleet import StreamOverview

_WATCH_EVERY_S = 2.0
_PIPED_WIDTH = 180
_COLOURS = {"sending": "green", "silent": "red", "ended": "dim", "expected": "yellow"}


def register(app: typer.Typer) -> None:
    app.command("streams")(streams)


def streams(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Keep the table up to date until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document per stream.")] = False,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """List all streams: state of the camera, delay of the answers, the newest answer, and errors.

    Reads the newest 2,000 results and metadata records of each partition.
    """
    from codecflow.errors import ConfigError
    from codecflow.lifecycle import GracefulStop
    from codecflow.subscriber.fleet import Fleet

    if watch and json:
        raise ConfigError("streams: --watch and --json exclude each other")
    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    with Fleet(settings) as fleet:
        found = fleet.catch_up()
        now_ms = _now_ms()
        if json:
            for one in found:
                print_json(_document(one, now_ms))
        elif watch:
            from rich.live import Live

            with GracefulStop() as stop, Live(_table(found, now_ms), screen=False, auto_refresh=False) as live:
                while not stop.wait(_WATCH_EVERY_S):
                    live.update(_table(fleet.update(), _now_ms()), refresh=True)
        elif not found:
            typer.echo(f"no streams on topics {topic_prefix}.*; publish one: codecflow produce SOURCE --stream ID")
        else:
            from rich.console import Console

            console = Console()
            if not console.is_terminal:
                console.width = _PIPED_WIDTH
            console.print(_table(found, now_ms))
    if fleet.unreadable:
        logs.notice(f"{fleet.unreadable} records could not be read and were skipped", "warning")


def _now_ms() -> int:
    return int(time.time() * 1000)


def _table(found: list[StreamOverview], now_ms: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{len(found)} stream{'s' * (len(found) != 1)}", title_justify="left", box=None, pad_edge=False)
    for name in ("stream", "state"):
        table.add_column(name)
    for name in ("pictures/s", "behind", "questions", "tokens", "errors"):
        table.add_column(name, justify="right")
    table.add_column("newest answer")
    for one in found:
        state, behind_s = one.state(now_ms), one.behind_s(now_ms)
        since = f" {_duration((now_ms - one.seen_ms) / 1000)}" if state == "silent" and one.seen_ms is not None else ""
        table.add_row(
            Text(one.stream),
            Text(state + since, style=_COLOURS[state]),
            Text(f"{one.rate:.1f}" if one.rate is not None and state == "sending" else ""),
            Text("" if behind_s is None else _duration(behind_s)),
            Text(str(one.questions)),
            Text(f"{one.kept / one.total:.0%}" if one.total else ""),
            Text(str(one.errors or ""), style="red"),
            Text(_answer(one)),
        )
    return table


def _answer(one: StreamOverview) -> str:
    from codecflow.subscriber.lines import time_of_day

    if one.last is None:
        return ""
    text = one.last.answer if one.last.error is None else f"no answer: {one.last.error.text}"
    return f"{time_of_day(one.last.captured_at_ms)}  {one_line(one.last.question, 30)}: {one_line(text, 60)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _document(one: StreamOverview, now_ms: int) -> dict[str, object]:
    last = one.last
    return {
        "stream": one.stream,
        "state": one.state(now_ms),
        "epoch": one.epoch,
        "seen_ms": one.seen_ms,
        "pictures_per_second": None if one.rate is None else round(one.rate, 2),
        "behind_s": one.behind_s(now_ms),
        "questions": one.questions,
        "answers": one.answers,
        "errors": one.errors,
        "tokens_kept_share": one.kept / one.total if one.total else None,
        "last": None
        if last is None
        else {
            "question": last.question,
            "answer": last.answer,
            "p_yes": last.p_yes,
            "captured_at_ms": last.captured_at_ms,
            "error": None if last.error is None else {"code": last.error.code, "text": last.error.text},
        },
    }
