"""Which questions a window is asked in training, and the answers that its labels make certain."""

from __future__ import annotations

import numpy as np
import questions as q
from maker import NEWEST
from torch import Tensor


def ask_scenes(
    facts: dict[str, Tensor], rng: np.random.Generator, every: bool = False
) -> list[list[tuple[str, str, float]]]:
    """Questions whose answers the newest stride makes certain, and those answers. `every`: all, in their first spelling."""
    seen, known, slivers = (facts[n].numpy()[:, -NEWEST:] for n in ("seen", "known", "slivers"))
    moving, mover, person_at = facts["moving"].numpy()[:, -NEWEST:], facts["mover"].numpy(), facts["person_at"].numpy()
    fall, left, complete = facts["fall"].numpy(), facts["left"].numpy(), facts["complete"].numpy()
    frames = facts["seen"].shape[1]
    asked = []
    for i in range(len(seen)):
        certain: dict[str, str] = {}
        counts, sure = {}, True
        for c, name in enumerate(q.CLASSES):
            there = seen[i, :, c] > 0
            vague = slivers[i, :, c] & ~there
            share = there.mean()
            if not known[i, :, c].all() or vague.any() or 0 < share < 0.5:
                sure = False
                continue
            certain[name] = q.yes_no(bool(share >= 0.5))
            counts[name] = int(seen[i, -1, c])
            if (
                c == q.PERSON
                and complete[i, c]
                and (seen[i, :, c] == seen[i, -1, c]).all()
                and not slivers[i, :, c].any()
            ):
                certain["count"] = q.count(counts[name])
                if counts[name] == 1 and person_at[i, 0] >= 0:
                    certain["person_where"] = q.place(*person_at[i])
        place = None
        if frames > 1:
            still, busy = not moving[i].any(), bool((moving[i] > 0).all())
            if still or busy:
                certain["moving"] = q.yes_no(busy)
            if still:
                certain["where"] = q.NOWHERE
            if busy and moving[i, -1] == 1 and (mover[i] >= 0).all() and (mover[i] <= 1).all():
                certain["where"] = place = q.place(*mover[i])
            if left[i] >= 0 and frames >= 8:
                certain["left_behind"] = q.yes_no(bool(left[i]))
        if fall[i] >= 0:
            certain["fall"] = q.yes_no(bool(fall[i]))
        if sure and "count" in certain:
            certain["caption"] = q.caption(counts, place)
        asked.append([(q.QUESTIONS[n][0], a, 1.0) for n, a in certain.items()] if every else pick(certain, rng))
    return asked


WEIGHTS = {"person": 1.5, "vehicle": 1.5}


def pick(certain: dict[str, str], rng: np.random.Generator, most: int = 5) -> list[tuple[str, str, float]]:
    """Up to `most` of what is certain: person and vehicle always, and one spelling each."""
    first = [name for name in ("person", "vehicle") if name in certain]
    rest = [name for name in certain if name not in first]
    # Answers that are nearly always "no" are asked less often when they are.
    rest = [n for n in rest if certain[n] != "No" or n == "moving" or rng.random() < 0.35]
    rng.shuffle(rest)
    chosen = (first + rest)[:most]
    return [(spell(name, rng), certain[name], WEIGHTS.get(name, 0.7)) for name in chosen]


def spell(name: str, rng: np.random.Generator) -> str:
    spellings = q.QUESTIONS[name]
    return spellings[0] if rng.random() < 0.5 else spellings[int(rng.integers(len(spellings)))]
