"""`codecflow bench window` with the demo model by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codecflow.cli.app import build
from codecflow.errors import ConfigError
from tests.clips import BUNDLED

SHORT = ("--device", "cpu", "--window", "1", "--stride", "0.5", "--anchor", "1", "--slides", "1")
NAME = "codecflow-tiny"


def bench_window(*arguments: str | Path) -> None:
    build()(["bench", "window", *map(str, arguments), *SHORT], standalone_mode=False)


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first to need the model assembles it
def test_the_demo_model_is_measured_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_window(BUNDLED, "--model", NAME, "--save-masks", tmp_path / "masks.npz")
    bench_window("--masks", tmp_path / "masks.npz", "--model", NAME, "--policies", "all/all")
    printed = capsys.readouterr().out
    assert f"{NAME} (trained)" in printed
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    assert (figures["model"], figures["trained"]) == (NAME, True)
    assert figures["results"][0]["window_tokens"] == 2 * 64


def test_it_is_not_assembled_for_options_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CODECFLOW_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="--streams '0'"):
        bench_window(BUNDLED, "--model", NAME, "--streams", "0")
    assert not (tmp_path / "cache").exists()
