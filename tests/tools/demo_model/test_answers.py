"""The demo model answers about a real camera that it was never trained on, through the product's own pipeline."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pytest

from codecflow import subscriber
from codecflow.cli.demo import TINY_STRIDE_S, WINDOW_S
from codecflow.folders import cache_dir
from codecflow.tools.demo_model.checkpoint import cached_checkpoint
from codecflow.tools.evaluate.contender_answers import ContenderWorker
from codecflow.tools.evaluate.contenders import contenders
from codecflow.tools.evaluate.sampled_clips import Sampled, publish
from codecflow.tools.evaluate.spec import label, read_spec
from codecflow.vlm.loading import load_model
from codecflow.worker.window_plan import WindowPlan
from tests.clips import BUNDLED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SPEC = Path(__file__).parents[3] / "evaluation" / "specs" / "bundled.csv"
LOOKED_AT_S = 76
"""By then three people have come and gone."""
PERSON = "Is a person in view?"


def test_it_says_when_a_person_is_in_view() -> None:
    """The bundled clip, in the demo's windows: people come and go, and the view is empty for 2.5 to 6 s at a time."""
    family = load_model(str(cached_checkpoint(cache_dir())), "float32", "cpu")
    assert family.trained
    plan = WindowPlan.of(str(WINDOW_S), str(TINY_STRIDE_S), "2")
    pruned = next(one for one in contenders("replenish/none", plan, None) if one.name == "replenish/none")
    question = subscriber.question(PERSON, yes_no=True, name="person")
    clip = publish(0, BUNDLED, (question,), Fraction(2))
    intervals = read_spec(SPEC).clips[0].labels[PERSON]
    said: list[tuple[str, str]] = []
    with (
        ThreadPoolExecutor(1) as decoder,
        closing(ContenderWorker(pruned, family, "codecflow-tiny", decoder)) as worker,
    ):
        for _, (result,) in worker.answers([Sampled(clip, worker.sampling, limit=0)]):
            if result.end_s > LOOKED_AT_S:
                break
            right = label("yes-no", intervals, result.end_s - TINY_STRIDE_S, result.end_s)
            if right is not None:
                said.append((right, result.answer))
    assert len(said) >= 30
    both = sum(right == answer == "yes" for right, answer in said)
    f1 = 2 * both / (sum(right == "yes" for right, _ in said) + sum(answer == "yes" for _, answer in said))
    empty = [answer for right, answer in said if right == "no"]
    assert f1 >= 0.9
    assert empty.count("no") >= 0.75 * len(empty)
