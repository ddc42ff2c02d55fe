"""The mean of several runs is the mean of what they compute, not of the factors of their products."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codecflow.trained.assemble import TrainedPart, read_trained_part

LAYER = "lora.model.language_model.layers.0.mlp.up_proj"
RANK, IN, OUT = 4, 24, 40


def _run(seed: int) -> TrainedPart:
    """A trained part whose product has rank 2, so that the mean of two has the rank that it is kept in."""
    random = torch.Generator().manual_seed(seed)
    a, b = torch.randn(RANK, IN, generator=random), torch.randn(OUT, RANK, generator=random)
    b[:, 2:] = 0
    tensors = {f"{LAYER}.a": a, f"{LAYER}.b": b, "rows.embed_tokens.weight": torch.randn(4, 8, generator=random)}
    return TrainedPart(224, 2.0, tensors)


def _product(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return tensors[f"{LAYER}.b"] @ tensors[f"{LAYER}.a"]


def test_the_mean_of_two_runs_computes_the_mean_of_their_products() -> None:
    from average import average

    runs = [_run(1), _run(2)]
    mean = average(runs)
    assert {name: t.shape for name, t in mean.items()} == {name: t.shape for name, t in runs[0].tensors.items()}
    wanted = torch.stack([_product(dict(run.tensors)) for run in runs]).mean(0)
    torch.testing.assert_close(_product(mean), wanted)
    rows = "rows.embed_tokens.weight"
    torch.testing.assert_close(mean[rows], (runs[0].tensors[rows] + runs[1].tensors[rows]) / 2)


def test_what_does_not_fit_the_rank_is_kept_as_near_as_it_allows() -> None:
    from average import mean_product

    pairs = [(run.tensors[f"{LAYER}.a"], run.tensors[f"{LAYER}.b"]) for run in map(_run, range(3))]  # of rank 6
    a, b = mean_product(pairs)
    assert (a.shape, b.shape) == ((RANK, IN), (OUT, RANK))
    wanted = torch.stack([b @ a for a, b in pairs]).mean(0)
    lost = torch.linalg.svdvals(wanted)[RANK:].norm()
    torch.testing.assert_close((b @ a - wanted).norm(), lost)


def test_runs_of_two_recipes_are_refused() -> None:
    from average import average

    with pytest.raises(ValueError, match="not runs of one recipe"):
        average([_run(1), replace(_run(2), side=448)])
    with pytest.raises(ValueError, match="not runs of one recipe"):
        average([_run(1), replace(_run(2), tensors={"rows.embed_tokens.weight": torch.zeros(4, 8)})])


def test_its_command_writes_a_part_that_the_product_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from average import main
    from model import write_part

    runs = [_run(1), _run(2)]
    files = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for run, file in zip(runs, files, strict=True):
        write_part(file, dict(run.tensors), 224)
    monkeypatch.setattr(sys, "argv", ["average.py", *map(str, files), "--out", str(tmp_path / "mean.safetensors")])
    main()
    part = read_trained_part(tmp_path / "mean.safetensors")
    assert part.side == 224
    wanted = torch.stack([_product(dict(run.tensors)) for run in runs]).mean(0)
    torch.testing.assert_close(_product({n: t.float() for n, t in part.tensors.items()}), wanted, rtol=0.05, atol=0.05)

    monkeypatch.setattr(sys, "argv", ["average.py", str(tmp_path / "none"), "--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit, match=r"average.py: trained part .*none: cannot be read"):
        main()
