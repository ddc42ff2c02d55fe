"""Reported FLOPs compared with those counted by torch during execution."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from codecflow.messages import Question
from codecflow.vlm.flops import TextCost, causal_pairs

from .cases import Case, thinned
from .running import QUESTION, THIRD, Run


def counted(run: Run, *step: object) -> int:
    with FlopCounterMode(display=False) as counter:
        run.step(*step)  # type: ignore[arg-type]
    return int(counter.get_total_flops())


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_flops_are_those_that_torch_counts(case: Case, share: float) -> None:
    run = Run(case)
    executed = counted(run, case.frames(np.random.default_rng(0), range(3), share), 0)
    window, flops = run.engine.windows["camera"], run.outcome.flops
    suffix = run.engine.windows["camera"].family.chat(QUESTION.prompt)[1]
    closing = case.family.closing()
    asked = len(suffix) + (0 if closing is None else len(closing))
    # torch counts whole rectangles of queries by keys; we count the pairs that see each other. Prefixes are computed before.
    new = window.tokens - len(window.prefix) + asked
    rectangle = new * (window.tokens + asked)
    pairs = causal_pairs(new, window.tokens + asked)
    cost = TextCost.of(case.family.text_config)
    layers = cost.layers - 1 if case.family.narrows else cost.layers  # the last layer has one query, a whole row
    hidden = (rectangle - pairs) * cost.pair * layers
    assert flops.vit + flops.llm + hidden == pytest.approx(executed, rel=0.01)


def test_full_is_what_keep_all_with_refresh_all_executes(case: Case) -> None:
    rng = np.random.default_rng(1)
    questions = [QUESTION, Question("c", "Which?", "choice", labels=("car", "car park")), THIRD]
    whole, pruned = Run(case, "all"), Run(case, "none")
    for step in range(4):
        new = case.frames(rng, range(2 * step, 2 * step + 2))
        first = max(0, 2 * step - 2)
        whole.step(new, first, questions)
        masks = [rng.random(case.tokens) < 0.3 for _ in new]
        kept = [thinned(case.family, frame, mask) for frame, mask in zip(new, masks, strict=True) if mask.any()]
        pruned.step(kept, first, questions)
        flops = whole.outcome.flops
        assert flops.vit + flops.llm == flops.full
        if len(kept) == len(new):
            assert pruned.outcome.flops.full == flops.full
            assert pruned.outcome.flops.vit + pruned.outcome.flops.llm < 0.7 * flops.full


def test_tokens_are_reported_as_they_were_spent(case: Case) -> None:
    rng = np.random.default_rng(2)
    run = Run(case, "anchors")
    run.step(first := case.frames(rng, range(4), 0.5, anchors=2), 0)
    kept = [int(frame.keep.sum()) for frame in first]
    tokens = run.outcome.tokens
    assert (tokens.kept, tokens.total, tokens.refreshed, tokens.reused) == (sum(kept), 4 * case.tokens, sum(kept), 0)
    run.step(new := case.frames(rng, range(4, 6), 0.5, anchors=2), 2)
    added = sum(int(frame.keep.sum()) for frame in new)
    tokens = run.outcome.tokens
    assert (tokens.kept, tokens.refreshed, tokens.reused) == (added, added + kept[2], kept[3])
    assert set(run.outcome.seconds) == {"vit", "llm", "answer"}
    assert all(seconds >= 0 for seconds in run.outcome.seconds.values())
