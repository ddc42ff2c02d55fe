"""The packed loops over transformers' weights compared with transformers' own modules, and with GPU kernels in plain
torch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from codecflow.errors import ConfigError, ModelError
from codecflow.messages import Question
from codecflow.vlm import graphs
from codecflow.vlm.engine import Engine
from codecflow.vlm.families.internvl import InternVL
from codecflow.vlm.kernels import Kernels
from codecflow.vlm.loading import load_model, set_precision
from codecflow.vlm.work import StreamOutcome, StreamWork

from .cases import Case
from .ragged import reference_kernel, reference_single
from .running import QUESTION, SECOND, THIRD, Run, assert_equal

CHOICE = Question("c", "Which?", "choice", labels=("car", "car park", "a very long lorry"))
QUESTIONS = (QUESTION, SECOND, CHOICE, THIRD)
Logits = dict[tuple[str, str], torch.Tensor]  # of a stream and a question


def changed(case: Case, **parts: Any) -> Case:
    """The case with some parts of its family replaced; weights are shared."""
    other = copy.copy(case)
    other.family = copy.copy(case.family)
    for name, part in parts.items():
        setattr(other.family, name, part)
    return other


def slides(case: Case, **options: Any) -> tuple[list[Logits], list[StreamOutcome]]:
    """First logits and outcomes of two streams over four steps; one has a single question, the other several."""
    rng = np.random.default_rng(1)
    run = Run(case, **options)
    logits, outcomes = [], []
    for step in range(4):
        first = max(0, 2 * step - 2)
        frames = {s: case.frames(rng, range(2 * step, 2 * step + 2), 0.4, anchors=4) for s in ("gate", "yard")}
        asked = {"gate": (SECOND,) if step % 2 else (QUESTION,), "yard": QUESTIONS}
        outcomes += run.engine.step([StreamWork(s, f, first, asked[s]) for s, f in frames.items()])
        run.engine.check_integrity()
        logits.append(dict(run.logits))
    return logits, outcomes


@pytest.mark.parametrize("refresh", ["none", "budget", "all"])
@pytest.mark.parametrize("kind", ["transformers", "kernels", "kernels, padded", "ragged kernel alone"])
def test_every_path_gives_the_same_answers(
    case: Case, kind: str, refresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert case.family.decoder is not None
    expected, answers = slides(case, refresh=refresh)
    if kind == "kernels":
        monkeypatch.setattr(graphs, "HOST_BOUND", 0)
    without: dict[str, Any] = {"decoder": None}
    if isinstance(case.family, InternVL):  # test_invariants compares the other ViTs, which have no second path
        without["encoder"] = None
    other = {
        "transformers": without,
        "kernels": {"kernels": Kernels(reference_kernel, reference_single)},
        "kernels, padded": {"kernels": Kernels(reference_kernel, reference_single)},
        "ragged kernel alone": {"kernels": Kernels(reference_kernel)},
    }[kind]
    found, other_answers = slides(changed(case, **other), refresh=refresh)
    for got, wanted in zip(found, expected, strict=True):
        assert got.keys() == wanted.keys()
        for key, row in wanted.items():
            assert_equal(got[key], row, f"{kind}, {key}")
    for one, two in zip(answers, other_answers, strict=True):
        assert [a.text for a in one.answers] == [a.text for a in two.answers]
        assert one.error is two.error is None


def deviation(found: list[Logits], expected: list[Logits]) -> float:
    """The largest of all logits' relative deviations, each from its row's mean."""
    return max(
        float((got[key] - wanted[key]).norm() / (wanted[key] - wanted[key].mean()).norm())
        for got, wanted in zip(found, expected, strict=True)
        for key in wanted
    )


@pytest.mark.parametrize(("weights", "most"), [("fp8", 0.35), ("int8", 0.1)])
def test_weights_in_eight_bits_give_almost_the_same(case: Case, weights: str, most: float) -> None:
    eighth = copy.copy(case)
    eighth.family = load_model(str(case.folder), "float32", "cpu", weights)
    assert not any(len(p) for name, p in eighth.family.text.named_parameters() if "proj.weight" in name)
    expected, _ = slides(case)
    found, outcomes = slides(eighth)
    assert all(outcome.error is None for outcome in outcomes)
    assert 0 < (off := deviation(found, expected)) < most, off


def test_keys_and_values_in_eight_bits_give_almost_the_same_in_less_memory(case: Case) -> None:
    eighth = copy.copy(case)
    eighth.family = load_model(str(case.folder), "float32", "cpu", kv="fp8")
    expected, _ = slides(case)
    found, outcomes = slides(eighth)
    inside, _ = slides(changed(eighth, kernels=Kernels(reference_kernel, reference_single)))
    assert all(outcome.error is None for outcome in outcomes)
    assert 0 < (off := deviation(found, expected)) < 0.2, off
    # Both paths round to the same few values; but one close to the middle between two of them may become either.
    assert deviation(inside, found) < off / 20
    assert eighth.family.kv.bytes_per_token < case.family.kv.bytes_per_token * 0.4  # of float32, heads of 16
    with pytest.raises(ConfigError, match="--kv fp8 does not go with --coverage background"):
        Engine(eighth.family, background=True)


def test_weights_that_there_are_not(case: Case) -> None:
    with pytest.raises(ModelError, match="weights 'int3': use auto or fp8 or int8"):
        set_precision(case.family, "int3", "auto")
    with pytest.raises(ModelError, match="leave --weights out"):
        set_precision(changed(case, decoder=None).family, "fp8", "auto")
