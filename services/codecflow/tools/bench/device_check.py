"""Before timing a GPU: check that it computes the same results as the CPU.

Kernels differ between devices and precisions (fused causal attention, packed attention of unequal frames, grouped heads),
and the tests run on a CPU. So every family's small model slides through the same windows on both, under every refresh
policy.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codecflow.errors import ModelError
from codecflow.messages import Question
from codecflow.vlm.engine import Engine
from codecflow.vlm.families import Family
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import MAKERS, make_tiny
from codecflow.vlm.work import Frame, StreamWork

QUESTIONS = (
    Question("a", "Is someone there?", "yes-no"),
    Question("b", "Which is it, of all that there are?", "choice", labels=("car", "car park")),
    Question("c", "What?", "text", max_tokens=3),
)
REFRESHES = ("none", "anchors", "budget", "all")

Logits = dict[tuple[str, str, int, str], Tensor]

ROUNDS = 3
"""Times that a GPU computes the same windows, for other streams each time: launch by launch, then padded while CUDA graphs
are recorded, then from the graphs."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The precision of a GPU, and the largest difference that it explains, in standard deviations of the logits. The CPU
    computes in float32, with the same number of bits per stored value."""

    dtype: str
    weights: str
    kv: str
    tolerance: float

    @property
    def name(self) -> str:
        eighth = [f"{part} {kind}" for part, kind in (("weights", self.weights), ("KV", self.kv)) if kind != "auto"]
        return ", ".join([self.dtype, *eighth])


PRECISIONS = (
    Precision("float32", "auto", "auto", 0.02),
    Precision("bfloat16", "auto", "auto", 0.4),
    Precision("bfloat16", "fp8", "auto", 0.8),
    Precision("bfloat16", "int8", "auto", 0.4),
    Precision("bfloat16", "auto", "fp8", 0.8),
)


def check_device(device: torch.device) -> dict[str, float]:
    """Largest logit difference from the CPU in float32, in standard deviations, by family and precision.

    Raises ModelError when a difference exceeds what its precision explains.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in MAKERS:
            checkpoint = make_tiny(Path(folder) / name, name)
            expected: dict[tuple[str, str], Logits] = {}
            for one in PRECISIONS:
                stored = one.weights, one.kv
                if stored not in expected:
                    expected[stored] = _rounds(load_model(str(checkpoint), "float32", "cpu", *stored), 1)[0]
                exact = expected[stored]
                rounds = _rounds(load_model(str(checkpoint), one.dtype, str(device), *stored), ROUNDS)
                difference = max(
                    float((logits[key] - exact[key]).abs().max() / exact[key].std())
                    for logits in rounds
                    for key in exact
                )
                if not difference <= one.tolerance:  # also True for NaN
                    raise ModelError(
                        f"{name} in {one.name} on {device}: logits are {difference:.3g} deviations off the CPU's"
                    )
                found[f"{name} {one.name}"] = difference
    return found


def _rounds(family: Family, count: int) -> list[Logits]:
    """For each round the first logits by refresh policy, stream, step and question, over windows that slide by two frames of
    four."""
    rounds: list[Logits] = [{} for _ in range(count)]
    for refresh in REFRESHES:
        step = number = 0

        def observe(stream: str, question: Question, row: Tensor, refresh: str = refresh) -> None:
            rounds[number][refresh, stream.partition(" ")[0], step, question.id] = row.cpu()  # noqa: B023  # called in each step

        engine = Engine(family, refresh=refresh, observe=observe)
        for number in range(count):  # read by `observe`
            rng = np.random.default_rng(0)
            for step in range(4):  # likewise
                first = max(0, 2 * step - 2)
                engine.step(
                    [
                        StreamWork(
                            f"{stream} {number}",
                            [_frame(family, rng, 2 * step + n) for n in range(2)],
                            first,
                            QUESTIONS,
                        )
                        for stream in ("gate", "yard")
                    ]
                )
        if count > 2 and refresh == "none":
            for part, graphs in (("text model", engine.graphs), ("ViT", family.vision_graphs)):
                if graphs is not None and not graphs.cache.replays:
                    raise ModelError(f"{family.model_type} on {family.device}: no CUDA graph of the {part} was used")
    return rounds


def _frame(family: Family, rng: np.random.Generator, index: int) -> Frame:
    """Noise of typical size, far from black and white, with half of its tokens kept; every fourth frame is an anchor."""
    width, height = 320, 180
    anchor = index % 4 == 0
    keep = np.ones(family.grid(width, height).tokens, bool)
    if not anchor:
        keep = rng.random(keep.size) < 0.5
    patches = family.input.patches(rng.integers(64, 192, (height, width, 3), dtype=np.uint8), keep)
    return Frame(index, index / 2, keep, patches, (width, height), anchor)
