"""Commands run in this process: importing torch and transformers for each would take longer than most tests.

Tests of process behaviour (signals, exit at the interpreter's end, output when piped) use a separate process.
"""

from __future__ import annotations

import io
import logging
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from codecflow.cli.app import main


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def codecflow(*arguments: str | Path) -> Done:
    """Runs `codecflow arguments...` to completion. Restores the logging configuration."""
    out, err = io.StringIO(), io.StringIO()
    logger = logging.getLogger("codecflow")
    handlers, level = logger.handlers[:], logger.level
    status: object = 0
    try:
        with (
            patch.object(sys, "argv", ["codecflow", *map(str, arguments)]),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            main()
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        logger.handlers, logger.level = handlers, level
    assert isinstance(status, int), status
    return Done(status, out.getvalue(), err.getvalue())
