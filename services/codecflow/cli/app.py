"""The `codecflow` command: its subcommands, and how each of them ends."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import typer

from codecflow import logs
from codecflow.codec.addresses import redact
from codecflow.errors import CodecFlowError

# Each has `register(app)`. They import torch, transformers and av inside their commands only: --help stays quick.
COMMAND_MODULES = (
    "kafka",
    "topics",
    "produce",
    "worker",
    "ask",
    "results",
    "history",
    "events",
    "stream",
    "streams",
    "dead_letters",
    "clip",
    "recorder",
    "notify",
    "page",
    "bench",
    "eval",
    "explain",
    "model",
    "demo",
    "chaos",
    "fuzz",
)


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="codecflow",
        help="Questions about live video, answered by vision-language models on Apache Kafka.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",  # rich's own would swallow what stands in brackets
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in COMMAND_MODULES:
        importlib.import_module(f"codecflow.cli.{name}").register(app)
    return app


def main() -> None:
    """Run a command. Expected failures are one line on stderr and the error's own exit code; Ctrl-C is 130.

    No line shows the user, password or parameters of an address, whichever command it was given to.
    """
    try:
        logs.configure(lambda text: redact(text, sys.argv[1:]))
        status = build()(_arguments(), prog_name="codecflow", standalone_mode=False)
    except CodecFlowError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:  # before or after the command itself, which typer ends with the same status
        sys.exit(130)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer's usage errors have, whose class depends on its version
            raise
        _usage(error)
    sys.exit(status if isinstance(status, int) else 0)


def _arguments() -> list[str]:
    """The command line, with ./ before files whose names begin with a dash; no option has a dot in its name."""
    return [
        f"./{word}" if word.startswith("-") and "." in word and os.path.isfile(word) else word for word in sys.argv[1:]
    ]


def _usage(error: Any) -> NoReturn:
    """What was wrong with the command line."""
    message = error.format_message()
    if "help" in type(error).__name__.lower():  # a command without arguments: its help is the message
        error.show()
        sys.exit(error.exit_code)
    command = error.ctx.command_path if getattr(error, "ctx", None) else "codecflow"
    _fail(f"{message.rstrip('.')}; see {command} --help", error.exit_code)


def _fail(text: str, status: int) -> NoReturn:
    logs.notice(redact(text, sys.argv[1:]), "error", status=status)
    sys.exit(status)
