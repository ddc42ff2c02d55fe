"""`codecflow worker`: invalid options give one line and an exit status, before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from codecflow.cli import app
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import CONFIGS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit status, stdout, stderr) of `codecflow worker` with these options."""

    def run(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["codecflow", "worker", *options])
        with pytest.raises(SystemExit) as ended:
            app.main()
        output, errors = capsys.readouterr()
        return int(ended.value.code or 0), output, errors

    return run


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--keep", "some"), "keep policy 'some': use one of all, motion, replenish"),
        (("--refresh", "often"), "refresh policy 'often': use one of none, anchors, budget, all"),
        (("--refresh", "budget=lots"), "refresh 'budget=lots': budget=SHARE takes a number from 0 to 1"),
        (("--coverage", "41"), "coverage '41': every window must have every cell"),
        (("--stride", "8.1"), "--stride 8.1 s is not a whole number of frames at 2 frames/s"),
        (("--yes-no",), "--yes-no requires --question"),
        (("--question", " "), "a question needs an id and a prompt that are not empty"),
    ],
)
def test_options_that_cannot_be_are_refused(command: Run, options: tuple[str, ...], says: str) -> None:
    status, output, errors = command("--model", "none", *options)
    assert (status, output) == (2, "")
    assert errors.startswith(f"codecflow: {says}")
    assert errors.count("\n") == 1


def test_check_says_that_all_is_ready(command: Run, kafka_settings: KafkaSettings, checkpoint: Path) -> None:
    where = ("--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", kafka_settings.topic_prefix)
    status, output, errors = command("--model", str(checkpoint), "--device", "cpu", "--check", *where)
    assert status == 0
    assert output == f"{len(CONFIGS)} topics, 3 partitions; model {checkpoint} of type internvl: ready\n"
    assert "its weights are random, not trained" in errors


def test_an_unknown_model_and_missing_topics_are_one_line(
    command: Run, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    where = ("--bootstrap-servers", kafka_settings.bootstrap_servers)
    status, _, errors = command("--model", str(tmp_path), *where, "--topic-prefix", kafka_settings.topic_prefix)
    assert status == 6
    assert errors.startswith(f"codecflow: model '{tmp_path}': ")
    assert errors.count("\n") == 1
    status, _, errors = command("--model", str(tmp_path), *where, "--topic-prefix", "nobody.made")
    assert status == 4
    assert "missing topics nobody.made.packets" in errors
    assert "codecflow topics create" in errors
