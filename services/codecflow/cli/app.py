"""The `codecflow` command: its subcommands, and how each of them ends."""

from __future__ import annotations

import importlib
import logging
import os
import sys

import typer

from codecflow.errors import CodecFlowError, ConfigError

# Each has `register(app)`. They import torch, transformers and av inside their commands only: --help stays quick.
COMMAND_MODULES = (
    "kafka",
    "topics",
    "produce",
    "worker",
    "ask",
    "results",
    "bench",
    "eval",
    "explain",
    "model",
    "demo",
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
    """Run a command. Expected failures are one line on stderr and the error's own exit code; Ctrl-C is 130."""
    try:
        _log_to_stderr(os.environ.get("CODECFLOW_LOG", "warning"))
        build()(prog_name="codecflow")
    except CodecFlowError as error:
        line = " ".join(str(error).split())
        print(f"codecflow: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before or after the command itself, which typer ends with the same status
        sys.exit(130)


def _log_to_stderr(level: str) -> None:
    """CODECFLOW_LOG: debug (with librdkafka's own lines), info, warning or error."""
    name = level.upper()
    if name not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError(f"CODECFLOW_LOG={level}: use debug, info, warning or error")
    if name != "DEBUG":
        # Read when the hub's client is imported: each retry would be a line, before ours that says what is wrong.
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("codecflow")
    logger.addHandler(handler)
    logger.setLevel(name)
