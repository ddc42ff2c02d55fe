"""Pages about the command line: every command with its options, and environment variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

from codecflow.cli.app import build
from codecflow.kafka.settings import FIXED_PROPERTIES

from .markdown import GENERATED, prose, table

SETTINGS_WITHOUT_OPTION: Mapping[str, str] = {
    "CODECFLOW_CACHE": "Folder for downloads: the local broker's and the demo model's parts [~/.cache/codecflow]",
    "CODECFLOW_CHROMIUM": "Path of the Chromium that tests of the live page use (developers)",
    "CODECFLOW_LOG": "debug, info (a line per window), warning or error [warning]",
    "CODECFLOW_LOG_FORMAT": "text, or json: each line on stderr is one JSON document [text]",
    "CODECFLOW_PAGE_TOKEN": "Token that `codecflow page` asks for; `--token-file` overrides it",
    "CODECFLOW_REACH_WITHIN_S": "Seconds that a command waits for a broker's first answer [10]",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Collector for OpenTelemetry traces, such as http://collector:4318; needs the extra "
    "`otel`. Unset: no traces. OpenTelemetry's other variables apply as well",
}
"""Environment variables that do not correspond to a command's option."""


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All commands below `command`, with their full names."""
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            if not hasattr(inner, "commands"):
                yield f"{path} {name}", inner
            yield from _commands(inner, f"{path} {name}")


def command_line() -> str:
    """Every command with its arguments, options and defaults."""
    root = typer.main.get_command(build())
    context: Any = typer.Context(root, info_name="codecflow")
    parts = [
        GENERATED,
        "# Commands\n",
        f"{prose(root.help)} Options can stand before or after arguments; `--help` of each command prints what this "
        "page says. [Exit statuses](exit-statuses.md) and [environment variables](settings.md) have pages of their own.\n",
    ]
    shared: dict[str, Any] = {}
    for name, command in _commands(root, "codecflow"):
        parts += [f"## {name}\n", f"{prose(command.help)}\n"]
        parameters = [p for p in command.get_params(context) if not getattr(p, "hidden", False)]
        arguments = [p for p in parameters if p.param_type_name == "argument"]
        options = [p for p in parameters if p.param_type_name == "option" and "--help" not in p.opts]
        own = [p for p in options if p.rich_help_panel != "Kafka"]
        shared |= {p.opts[0]: p for p in options if p not in own}
        words = " ".join(
            ("codecflow", *name.split()[1:], *(_name(p) for p in arguments), "[OPTIONS]" if options else "")
        )
        parts.append(f"```text\n{words.rstrip()}\n```\n")
        if arguments:
            parts.append(table(("argument", "meaning"), ((f"`{_name(p)}`", p.help or "") for p in arguments)))
        if own:
            parts.append(table(_COLUMNS, (_row(p, context) for p in own)))
        if len(own) < len(options):
            parts.append("And the [Kafka options](#kafka-options).\n")
    parts += ["## Kafka options\n", "Every command that talks to Kafka has them.\n"]
    parts.append(table(_COLUMNS, (_row(p, context) for p in shared.values())))
    return "\n".join(parts)


_COLUMNS = ("option", "meaning", "default")


def _row(option: Any, context: Any) -> tuple[str, str, str]:
    text, _, stated = _meaning(option).partition("[default: ")
    default, _, rest = stated.partition("]")
    return _spelling(option), text + rest, default or _default(option, context)


def _name(argument: Any) -> str:
    name = (argument.metavar or argument.name.upper()).strip("{}")
    return f"[{name}]" if not argument.required and not name.startswith("[") else str(name)


def _spelling(option: Any) -> str:
    spelled = ", ".join(f"`{word}`" for word in option.opts)
    if option.is_flag:
        return spelled + "".join(f", `{word}`" for word in option.secondary_opts)
    kind = option.type_descriptor.annotation
    choices = [
        str(getattr(value, "value", value)) for value in (*get_args(kind), *getattr(kind, "__members__", {}).values())
    ]
    plain = {int: "N", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")
    return f"{spelled} {option.metavar or ('|'.join(choices) if get_origin(kind) is not list else '') or plain}"


def _meaning(option: Any) -> str:
    needed = " Required." if option.required else ""
    again = " May be repeated." if option.multiple and "repeated" not in (option.help or "") else ""
    env = f" Environment: `{option.envvar}`." if option.envvar else ""
    return f"{(option.help or '').rstrip()}{needed}{again}{env}"


def _default(option: Any, context: Any) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.get_default(context, call=False)
    if value is None or value is False or value in ((), []) or callable(value) or not option.show_default:
        return ""
    return "yes" if value is True else f"`{getattr(value, 'value', value)}`"


def settings() -> str:
    """Environment variables: those of options, and the others."""
    root = typer.main.get_command(build())
    context: Any = typer.Context(root, info_name="codecflow")
    found: dict[str, tuple[str, str, set[str]]] = {}
    for name, command in _commands(root, "codecflow"):
        for p in command.get_params(context):
            if p.param_type_name == "option" and p.envvar:
                spelled, meaning = p.opts[0], (p.help or "").rstrip()
                found.setdefault(str(p.envvar), (spelled, meaning, set()))[2].add(name.removeprefix("codecflow "))
    every = max((len(commands) for _, _, commands in found.values()), default=0)
    rows: list[tuple[str, str, str]] = []
    for variable, (spelled, meaning, commands) in found.items():
        where = "" if len(commands) >= every - 2 else f" ({', '.join(sorted(commands))})"
        rows.append((f"`{variable}`", f"`{spelled}`{where}", meaning))
    rows += [(f"`{name}`", "", meaning) for name, meaning in SETTINGS_WITHOUT_OPTION.items()]
    return "\n".join(
        (
            GENERATED,
            "# Settings\n",
            "Every command takes its settings from options or from these environment variables. An option overrides "
            "its variable.\n",
            table(("variable", "option", "meaning"), sorted(rows)),
            "## Kafka properties\n",
            "`--kafka-config FILE` and `-X KEY=VALUE` take any property of librdkafka; `-X` overrides the file. These are "
            "set by CodecFlow, because exactly-once results depend on them, and are refused:\n",
            ", ".join(f"`{name}`" for name in sorted(FIXED_PROPERTIES)) + "\n",
        )
    )
