"""The pages of docs/reference/, generated from the code: commands, settings, metrics, messages, exit statuses, Python.

`PAGES` maps a page's name to the function that generates it. A test compares them with the files, so that pages stay up to
date; `make docs` writes them.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
import yaml

import codecflow
from codecflow import api, errors
from codecflow.cli.app import build
from codecflow.kafka.settings import FIXED_PROPERTIES
from codecflow.kafka.topics import CONFIGS
from codecflow.monitoring import metrics

ROOT = Path(__file__).parents[4]
"""The repository's root, with schemas/ and docs/."""

_GENERATED = "<!-- Generated from the code by `make docs`. Do not edit. -->\n"

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


def _cell(text: object) -> str:
    """`text` as one cell of a Markdown table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").replace("<", "&lt;").strip()


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(head)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _prose(text: str | None) -> str:
    """A docstring as Markdown paragraphs; commands are formatted as code."""
    plain = inspect.cleandoc(text or "").replace("\b\n", "").replace("\f", "")
    paragraphs = re.split(r"\n\s*\n", plain)
    return "\n\n".join(
        f"```sh\n{inspect.cleandoc(p)}\n```" if p.lstrip().startswith("codecflow ") else p.replace("<", "&lt;")
        for p in paragraphs
    )


# Commands


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
        _GENERATED,
        "# Commands\n",
        f"{_prose(root.help)} Options can stand before or after arguments; `--help` of each command prints what this "
        "page says. [Exit statuses](exit-statuses.md) and [environment variables](settings.md) have pages of their own.\n",
    ]
    shared: dict[str, Any] = {}
    for name, command in _commands(root, "codecflow"):
        parts += [f"## {name}\n", f"{_prose(command.help)}\n"]
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
            parts.append(_table(("argument", "meaning"), ((f"`{_name(p)}`", p.help or "") for p in arguments)))
        if own:
            parts.append(_table(_COLUMNS, (_row(p, context) for p in own)))
        if len(own) < len(options):
            parts.append("And the [Kafka options](#kafka-options).\n")
    parts += ["## Kafka options\n", "Every command that talks to Kafka has them.\n"]
    parts.append(_table(_COLUMNS, (_row(p, context) for p in shared.values())))
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


# Settings


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
            _GENERATED,
            "# Settings\n",
            "Every command takes its settings from options or from these environment variables. An option overrides "
            "its variable.\n",
            _table(("variable", "option", "meaning"), sorted(rows)),
            "## Kafka properties\n",
            "`--kafka-config FILE` and `-X KEY=VALUE` take any property of librdkafka; `-X` overrides the file. These are "
            "set by CodecFlow, because exactly-once results depend on them, and are refused:\n",
            ", ".join(f"`{name}`" for name in sorted(FIXED_PROPERTIES)) + "\n",
        )
    )


# Metrics


def metric_list() -> str:
    """All metrics, by the sections of monitoring/metrics.py."""
    source = inspect.getsource(metrics)
    headings = {
        number: match[1]
        for number, line in enumerate(source.splitlines(), 1)
        if (match := re.match(r"# (The .+)", line))
    }
    lines: dict[str, int] = {
        node.targets[0].id: node.lineno
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    rows: dict[str, list[tuple[str, str, str, str]]] = {heading: [] for heading in headings.values()}
    for name, line in sorted(lines.items(), key=lambda item: item[1]):
        value = getattr(metrics, name)
        heading = next((headings[number] for number in sorted(headings, reverse=True) if number < line), "")
        if isinstance(value, metrics.MetricDefinition):
            published = value.name + ("_total" if value.kind == "counter" else "")
            rows[heading].append((f"`{published}`", value.kind, ", ".join(f"`{x}`" for x in value.labels), value.help))
        elif name == "ANSWER_DELAY":
            histogram = next(iter(metrics.answer_delay().collect()))
            rows[heading].append((f"`{histogram.name}`", histogram.type, "", histogram.documentation))
    parts = [
        _GENERATED,
        "# Metrics\n",
        "What `--metrics-port` serves at `/metrics`, in Prometheus' text format. Base units; counters begin at 0 with the "
        f"process. Only `stream` takes its values from topics: at most {metrics.MAX_STREAMS} streams per process have time "
        "series of their own. [Monitoring](../how-to/operations.md#monitoring) says what to watch.\n",
    ]
    for heading, found in rows.items():
        if found:
            parts += [f"## {heading.partition('.')[0]}\n", _table(("metric", "type", "labels", "meaning"), found)]
    return "\n".join(parts)


# Messages


def messages() -> str:
    """Topics and the fields of every message, from schemas/."""
    contract = yaml.safe_load((ROOT / "schemas" / "asyncapi.yaml").read_text(encoding="utf-8"))
    topics = []
    for name, config in CONFIGS.items():
        channel = next(c for c in contract["channels"].values() if c["address"] == f"codecflow.{name}")
        topics.append((f"`codecflow.{name}`", channel["description"], _kept(config)))
    parts = [
        _GENERATED,
        "# Messages\n",
        "The contract is [asyncapi.yaml](../../schemas/asyncapi.yaml) and the JSON Schemas next to it; this page lists "
        "their fields. Every record's key is the stream id. Readers ignore headers and fields that they do not know.\n",
        "## Topics\n",
        _table(("topic", "contents", "kept by default"), topics),
    ]
    for path in sorted((ROOT / "schemas").glob("*.schema.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        parts += [
            f"## {schema['title']}\n",
            f"[{path.name}](../../schemas/{path.name}). {_prose(schema['description'])}\n",
        ]
        for title, variant in _variants(schema):
            if title:
                parts.append(f"{title}:\n")
            parts.append(_table(("field", "type", "required", "meaning"), _fields(variant, schema, "")))
    return "\n".join(parts)


def _kept(config: Mapping[str, str]) -> str:
    if config["cleanup.policy"] == "compact":
        return "newest of each stream"
    hours = int(config["retention.ms"]) // 3_600_000
    kept = f"{hours // 24} days" if hours % 24 == 0 and hours > 24 else f"{hours} h"
    size = config.get("retention.bytes")
    return kept + (f", {int(size) >> 30} GiB per partition" if size else "")


def _variants(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schema itself, or each of its alternatives."""
    if "properties" in schema:
        yield "", schema
    for variant in schema.get("anyOf", ()):
        chosen = _resolved(variant, schema)
        yield _prose(chosen.get("title") or chosen.get("description", "")).rstrip("."), chosen


def _resolved(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        found: Any = schema
        for word in node["$ref"].removeprefix("#/").split("/"):
            found = found[word]
        node = {**found, **{k: v for k, v in node.items() if k != "$ref"}}
    return node


def _fields(node: Mapping[str, Any], schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """A row for each field of an object, followed by the fields of nested objects and lists."""
    for name, field in node.get("properties", {}).items():
        inner = _resolved(field, schema)
        required = "yes" if name in node.get("required", ()) else ""
        yield f"`{prefix}{name}`", _type(inner), required, inner.get("description", "")
        yield from _fields(inner, schema, f"{prefix}{name}.")
        if isinstance(inner.get("items"), dict):
            yield from _fields(_resolved(inner["items"], schema), schema, f"{prefix}{name}[].")


def _type(field: Mapping[str, Any]) -> str:
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        values = [f"`{value}`" for value in field["enum"]]
        return ", ".join(values) if len(values) <= 8 else f"one of {len(values)} names"
    kind = field.get("type", "")
    kinds = [kind] if isinstance(kind, str) else kind
    bounds = [
        f"≥ {field['minimum']}" if "minimum" in field else "",
        f"≤ {field['maximum']}" if "maximum" in field else "",
    ]
    limits = ", ".join(bound for bound in bounds if bound)
    length = f", at most {field['maxLength']} characters" if "maxLength" in field else ""
    return " or ".join(kinds) + (f", {limits}" if limits else "") + length


# Exit statuses and Python


def exit_statuses() -> str:
    """What each exit status means, from the classes of errors.py."""
    rows = [
        ("0", "done"),
        (
            "1",
            "any other failure. `codecflow demo`: one of its processes failed. `codecflow chaos`: it found a fault",
        ),
    ]
    classes = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.CodecFlowError)
    ]
    rows += [
        (str(kind.exit_code), f"{kind.__name__}: {_summary(kind)}")
        for kind in classes
        if kind is not errors.CodecFlowError
    ]
    rows += [("130, 143", "Ctrl-C, SIGTERM before the command had begun its work")]
    return "\n".join(
        (
            _GENERATED,
            "# Exit statuses\n",
            "Every expected failure is one line on stderr, `codecflow: what happened; what to do`, and one of these "
            "statuses. Services that are stopped by Ctrl-C or SIGTERM end with 0.\n",
            _table(("status", "meaning"), rows),
            "The names are those of the exceptions in `codecflow.errors` that the Python functions raise.\n",
        )
    )


def _summary(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]


def python() -> str:
    """The functions of `codecflow`, with their signatures and docstrings."""
    parts = [
        _GENERATED,
        "# Python\n",
        "What the commands `produce`, `ask` and `results` do, as functions of the package `codecflow`.\n",
    ]
    for name in codecflow.__all__:
        if not name.startswith("_"):
            function = getattr(api, name)
            source = inspect.getsource(function)
            body = ast.parse(source).body[0]
            assert isinstance(body, ast.FunctionDef)
            signature = "\n".join(source.splitlines()[: body.body[0].lineno - 1])
            parts += [f"## {name}\n", f"```python\n{signature}\n```\n", _prose(function.__doc__), ""]
    return "\n".join(parts)


PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": command_line,
    "settings.md": settings,
    "metrics.md": metric_list,
    "messages.md": messages,
    "exit-statuses.md": exit_statuses,
    "python.md": python,
}
