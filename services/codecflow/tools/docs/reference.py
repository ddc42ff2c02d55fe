"""The pages of docs/reference/, generated from the code: commands, settings, metrics, messages, exit statuses, Python.

`PAGES` maps a page's name to the function that generates it. A test compares them with the files, so that pages stay up to
date; `make docs` writes them.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping

import codecflow
from codecflow import api, errors
from codecflow.monitoring import metrics

from .command_pages import command_line, settings
from .markdown import GENERATED, prose, table
from .message_page import messages


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
        GENERATED,
        "# Metrics\n",
        "What `--metrics-port` serves at `/metrics`, in Prometheus' text format. Base units; counters begin at 0 with the "
        f"process. Only `stream` takes its values from topics: at most {metrics.MAX_STREAMS} streams per process have time "
        "series of their own. [Monitoring](../how-to/operations.md#monitoring) says what to watch.\n",
    ]
    for heading, found in rows.items():
        if found:
            parts += [f"## {heading.partition('.')[0]}\n", table(("metric", "type", "labels", "meaning"), found)]
    return "\n".join(parts)


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
            GENERATED,
            "# Exit statuses\n",
            "Every expected failure is one line on stderr, `codecflow: what happened; what to do`, and one of these "
            "statuses. Services that are stopped by Ctrl-C or SIGTERM end with 0.\n",
            table(("status", "meaning"), rows),
            "The names are those of the exceptions in `codecflow.errors` that the Python functions raise.\n",
        )
    )


def _summary(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]


def python() -> str:
    """The functions of `codecflow`, with their signatures and docstrings."""
    parts = [
        GENERATED,
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
            parts += [f"## {name}\n", f"```python\n{signature}\n```\n", prose(function.__doc__), ""]
    return "\n".join(parts)


PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": command_line,
    "settings.md": settings,
    "metrics.md": metric_list,
    "messages.md": messages,
    "exit-statuses.md": exit_statuses,
    "python.md": python,
}
