"""The `codecflow` command: its subcommands, and how each of them ends."""

from __future__ import annotations

import importlib
import os
import sys

import typer

from codecflow.errors import CodecFlowError

# Each has `register(app)`. They import torch, transformers and av inside their commands only: --help stays quick.
COMMAND_MODULES = (
    "kafka",
    "topics",
    "produce",
    "ask",
    "results",
    "bench",
)


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="codecflow",
        help="Questions about live video, answered by vision-language models on Apache Kafka.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in COMMAND_MODULES:
        importlib.import_module(f"codecflow.cli.{name}").register(app)
    return app


def main() -> None:
    """Run a command. Expected failures are one line on stderr and the error's own exit code."""
    try:
        build()(prog_name="codecflow")
    except CodecFlowError as error:
        line = " ".join(str(error).split())
        print(f"codecflow: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`| head`) has gone: nothing to tell and nobody to tell it to, Python's own flush at exit included.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
