"""Checkpoints from folders: which are loaded, and which are refused with a one-line error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from codecflow.errors import ModelError
from codecflow.vlm.loading import load_model, slower_than_needed
from codecflow.vlm.tiny import make_tiny

from .cases import Case


def test_a_small_checkpoint_is_untrained_and_says_so(case: Case) -> None:
    assert not case.family.trained
    assert json.loads((case.folder / "config.json").read_text())["codecflow_untrained"] is True


def test_the_same_seed_gives_the_same_checkpoint(case: Case, tmp_path: Path) -> None:
    again = make_tiny(tmp_path / "again", case.name, **case.sizes)
    other = make_tiny(tmp_path / "other", case.name, seed=1, **case.sizes)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (case.folder, again, other)]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_checkpoint_loads_in_each_precision(case: Case, dtype: str) -> None:
    assert load_model(str(case.folder), dtype, "cpu").dtype == getattr(torch, dtype)


def test_what_cannot_be_loaded_is_reported_in_one_line(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no-such-folder") as error:
        load_model(str(tmp_path / "no-such-folder"))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match=r"dtype 'int8'.*bfloat16"):
        load_model(str(case.folder), "int8")
    with pytest.raises(ModelError, match="device 'tpu'"):
        load_model(str(case.folder), device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="0 GPUs"):
            load_model(str(case.folder), device="cuda")
    with pytest.raises(ModelError, match=r"'foo'.*internvl"):
        make_tiny(tmp_path / "foo", "foo")


def test_another_type_of_model_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"type 'bert'.*internvl"):
        load_model(str(tmp_path))


def test_a_checkpoint_without_a_chat_template_is_refused(case: Case, tmp_path: Path) -> None:
    folder = shutil.copytree(case.folder, tmp_path / "mute")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("dtype", "units", "slower"), [("float32", True, True), ("bfloat16", True, False), ("float32", False, False)]
)
def test_float32_is_slow_where_a_cpu_has_matrix_units_for_bfloat16(
    case: Case, monkeypatch: pytest.MonkeyPatch, dtype: str, units: bool, slower: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": units}, raising=False)
    assert slower_than_needed(load_model(str(case.folder), dtype, "cpu")) is slower
