"""The command line as a whole: quick help, one line for what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CODECFLOW = [sys.executable, "-m", "codecflow"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CODECFLOW, *arguments], capture_output=True, text=True, timeout=60, env=os.environ | environment, check=False
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from codecflow.cli.app import build; build(); import typer.main\n"
        "print(*sorted({'torch', 'transformers', 'av', 'numpy', 'confluent_kafka'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_help_names_the_commands() -> None:
    done = run("--help", TERM="dumb")
    assert done.returncode == 0
    for command in ("kafka", "topics", "produce"):
        assert command in done.stdout


def test_help_shows_what_stands_in_brackets() -> None:
    done = run("demo", "--help", TERM="dumb", COLUMNS="200")
    assert "codecflow[demo]" in done.stdout
    assert "[default: 8; codecflow-tiny: " in done.stdout


def test_an_expected_failure_is_one_line_and_its_own_exit_status() -> None:
    done = run("topics", "check", "--topic-prefix", "no good")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("codecflow: topic prefix 'no good': ")
    assert done.stderr.count("\n") == 1


def test_an_unreachable_broker_is_reported_in_time() -> None:
    began = time.monotonic()
    at = ("--bootstrap-servers", "127.0.0.1:1", "-X", "sasl.password=hunter22")
    done = run("topics", "check", *at, CODECFLOW_REACH_WITHIN_S="1.5")
    assert time.monotonic() - began < 20
    assert done.returncode == 4
    assert done.stderr.startswith("codecflow: Kafka at 127.0.0.1:1: no answer within 1.5 s")
    assert done.stderr.count("\n") == 1
    assert "hunter22" not in done.stderr


def test_an_unknown_log_level_is_refused() -> None:
    done = run("topics", "check", CODECFLOW_LOG="loud")
    assert (done.returncode, done.stderr) == (2, "codecflow: CODECFLOW_LOG=loud: use debug, info, warning or error\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    command = subprocess.Popen([*CODECFLOW, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert command.stdout is not None
    command.stdout.close()
    _, said = command.communicate(timeout=60)
    assert said == ""


@pytest.mark.parametrize(
    ("module", "command", "name"),
    [
        ("typer", "--help", "SIGINT"),
        ("torch", "worker --model none", "SIGINT"),
        ("torch", "worker --model none", "SIGTERM"),
    ],
)
def test_a_signal_while_modules_are_imported_is_quiet(tmp_path: Path, module: str, command: str, name: str) -> None:
    """By a handler of its own: the kernel drops SIGTERM for the first process of a container if there is none."""
    program = f"import os, signal, time; os.kill(os.getpid(), signal.{name}); time.sleep(60)"
    (tmp_path / f"{module}.py").write_text(program)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    # Where the tests themselves run in the background, SIGINT is ignored, and the command would inherit that.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = run(*command.split(), PYTHONPATH=path)
    finally:
        signal.signal(signal.SIGINT, former)
    assert (done.returncode, done.stderr) == (128 + signal.Signals[name], "")


def test_json_logs_are_one_document_per_line_whatever_goes_wrong() -> None:
    done = run("topics", "check", "--topic-prefix", "no\n\x1b[2J good", CODECFLOW_LOG_FORMAT="json")
    (line,) = done.stderr.splitlines()
    said = json.loads(line)
    assert said.pop("time").endswith("Z")
    assert said.pop("message").startswith("topic prefix 'no")
    assert said == {"level": "error", "logger": "codecflow", "status": 2}
    assert line.isprintable()
    code = (
        "from codecflow import logs; logs.configure(lambda text: text.replace('s3cret', '***')); logs.bind(stream='gate')\n"
        "import warnings; warnings.warn('a library warns')\n"
        "logs.notice(logs.Notice('a line', epoch=7, window=3))\n"
        "raise RuntimeError('s3cret')"
    )
    environment = os.environ | {"CODECFLOW_LOG_FORMAT": "json"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 1
    warned, notice, unexpected = map(json.loads, done.stderr.splitlines())
    assert "a library warns" in warned["message"]
    assert (notice["stream"], notice["epoch"], notice["window"]) == ("gate", 7, 3)
    assert (unexpected["level"], unexpected["message"]) == ("critical", "unexpected: RuntimeError")
    assert unexpected["traceback"].endswith("RuntimeError: ***")
    done = run("topics", "check", CODECFLOW_LOG_FORMAT="xml")
    assert (done.returncode, done.stderr) == (2, "codecflow: CODECFLOW_LOG_FORMAT=xml: use text or json\n")
