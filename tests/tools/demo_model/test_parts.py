"""Only the pinned files are accepted as published parts; a trained part that does not fit is rejected with the reason."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from codecflow.errors import ModelError
from codecflow.tools.demo_model.assemble import (
    TrainedPart,
    apply_trained_part,
    build_checkpoint,
    read_trained_part,
)
from codecflow.tools.demo_model.checkpoint import REPOSITORY_PART, cached_checkpoint
from codecflow.tools.demo_model.parts import TEXT, VISION, locate


def test_a_cached_part_is_taken_only_if_it_is_the_pinned_file(tmp_path: Path) -> None:
    content = b"weights"
    part = dataclasses.replace(
        TEXT,
        package="codecflow-no-such-package",
        sha256=hashlib.sha256(content).hexdigest(),
        member="folder/weights.gguf",
    )
    file = tmp_path / part.sha256[:16] / "weights.gguf"
    file.parent.mkdir()
    file.write_bytes(content)
    assert locate(part, tmp_path) == file
    file.write_bytes(b"other weights")
    with pytest.raises(ModelError, match="SHA-256"):
        locate(part, tmp_path)


def test_whoever_comes_while_the_model_is_assembled_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []

    def slowly(out: Path, part: Path | None, cache: Path) -> tuple[int, int]:
        built.append(out)
        time.sleep(0.3)
        out.mkdir()
        (out / "config.json").write_text("{}")
        return 224, 64

    monkeypatch.setattr("codecflow.tools.demo_model.assemble.build_checkpoint", slowly)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(cached_checkpoint, [tmp_path] * 4))
    assert len(built) == 1
    (folder,) = folders
    assert (folder / "config.json").exists()


def test_the_part_in_the_repository_is_small_and_of_the_pinned_parts() -> None:
    assert REPOSITORY_PART.stat().st_size <= 32_000_000
    part = read_trained_part(REPOSITORY_PART)
    assert all(bool(tensor.isfinite().all()) for tensor in part.tensors.values())
    for name in part.tensors:
        if name.startswith("lora.") and name.endswith(".a"):
            assert f"{name[:-2]}.b" in part.tensors


def test_a_trained_part_of_other_parts_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trained.safetensors"
    about = {"parts": [VISION.sha256, "0" * 64], "side": 224, "lora_scale": 1.0}
    save_file({"x": torch.zeros(1)}, path, {"codecflow": json.dumps(about)})
    with pytest.raises(ModelError, match="not trained on the pinned parts"):
        read_trained_part(path)
    for side in (0, 230):
        about = {"parts": [VISION.sha256, TEXT.sha256], "side": side, "lora_scale": 1.0}
        save_file({"x": torch.zeros(1)}, path, {"codecflow": json.dumps(about)})
        with pytest.raises(ModelError, match=f"{side} pixels"):
            read_trained_part(path)
    save_file({"x": torch.zeros(1)}, path, {"codecflow": json.dumps({"parts": [VISION.sha256, TEXT.sha256]})})
    with pytest.raises(ModelError, match="does not say for which inputs"):
        read_trained_part(path)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(ModelError, match="cannot be read"):
        read_trained_part(path)
    with pytest.raises(ModelError, match="no such file"):
        build_checkpoint(tmp_path / "out", tmp_path / "missing", tmp_path)


def test_what_was_trained_is_written_where_it_belongs() -> None:
    model = torch.nn.ModuleDict(
        {"low": torch.nn.Linear(4, 3), "whole": torch.nn.Linear(2, 2), "table": torch.nn.Embedding(5, 2)}
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    a, b = torch.randn(2, 4), torch.randn(3, 2)
    whole, rows = torch.randn(2, 2), torch.randn(2, 2)
    tensors = {"lora.low.a": a, "lora.low.b": b, "whole.weight": whole, "rows.table.weight": rows}
    apply_trained_part(model, TrainedPart(224, 2.0, tensors))
    after = dict(model.named_parameters())
    torch.testing.assert_close(after["low.weight"], before["low.weight"] + 2.0 * b @ a)
    assert torch.equal(after["whole.weight"], whole)
    assert torch.equal(after["table.weight"], torch.cat([before["table.weight"][:3], rows]))
    assert torch.equal(after["whole.bias"], before["whole.bias"])
    with pytest.raises(ModelError, match="does not fit"):
        apply_trained_part(model, TrainedPart(224, 1.0, {"whole.weight": torch.zeros(3, 3)}))
