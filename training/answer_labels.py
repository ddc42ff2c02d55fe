"""Which questions a stride is asked in training, and the answers that its facts make certain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import questions as q
from bank import Facts
from maker import NEWEST

MAX_QUESTIONS = 4
"""Questions asked of one stride."""

BORDER = 0.04
"""What is nearer than this to the border between two of the nine places, in shares of the picture, is in neither for
certain: nine pixels of 224, a third of a token."""


def certain(facts: Facts, end: int, window: int) -> dict[str, str]:
    """Answers by question name that the stride which ends before frame `end` makes certain; what is not is left out.

    `facts`: of one clip. `window`: frames that are looked at; what happened before them cannot be known.
    """
    newest = slice(max(0, end - NEWEST), end)
    answers: dict[str, str] = {}
    counts = _presence(facts, newest, answers)
    place = _motion(facts, newest, answers) if end > 1 else None
    fall, left = facts["fall"][newest], facts["left"][newest]
    if (fall == 0).all() or (fall[-1] == 1 and (fall == 1).mean() >= 0.5):
        answers["fall"] = q.yes_no(bool(fall[-1]))
    fight = facts["fight"][newest]
    if end > 1 and ((fight == 0).all() or (fight == 1).mean() >= 0.5):
        answers["fight"] = q.yes_no(bool((fight == 1).any()))
    if end >= 2 * NEWEST:
        seen_leaving = facts["left_since"][end - 1] >= max(0, end - window)
        if (left == 0).all() or (left[-1] == 1 and (left == 1).mean() >= 0.5 and seen_leaving):
            answers["left_behind"] = q.yes_no(bool(left[-1]))
    if counts is not None:
        answers["caption"] = q.caption(counts, place)
    return answers


def _presence(facts: Facts, newest: slice, answers: dict[str, str]) -> dict[str, int] | None:
    """Who and what is in view. Returns the number of each class, None where one of them is not certain."""
    seen, known, slivers = facts["seen"][newest], facts["known"][newest], facts["slivers"][newest]
    counts: dict[str, int] = {}
    sure = True
    for c, name in enumerate(q.CLASSES):
        there = seen[:, c] > 0
        share, vague = there.mean(), (slivers[:, c] & ~there).any()
        settled = known[:, c].all() and (share >= 0.5 or not (share or vague))
        sure &= bool(settled and share in (0, 1) and not vague)
        if settled:
            answers[name] = q.yes_no(bool(share))
            counts[name] = int(seen[-1, c])
    people = seen[:, q.PERSON]
    exact = facts["complete"][newest][:, q.PERSON].all() and not slivers[:, q.PERSON].any()
    if "person" not in answers or not exact or (people != people[-1]).any():
        return None
    answers["count"] = q.count(int(people[-1]))
    x, y = facts["person_at"][newest][-1]
    if people[-1] == 1 and x >= 0 and not _on_border(float(x), float(y)):
        answers["person_where"] = q.place(float(x), float(y))
    return counts if sure else None


def _motion(facts: Facts, newest: slice, answers: dict[str, str]) -> str | None:
    """Whether something moves, and where; returns that place."""
    moving = facts["moving"][newest]
    if (moving == 0).all():
        answers["moving"], answers["where"] = q.yes_no(False), q.NOWHERE
        return None
    if not (moving > 0).all():
        return None
    answers["moving"] = q.yes_no(True)
    x, y = facts["mover"][newest][-1]
    if moving[-1] != 1 or not (0 <= x <= 1 and 0 <= y <= 1):
        return None
    place = q.place(float(x), float(y))
    if not _on_border(float(x), float(y)):
        answers["where"] = place
    return place


def _on_border(x: float, y: float) -> bool:
    """Whether (x, y) lies between two places, so that either may be named."""
    return any(abs(v - border) < BORDER for v in (x, y) for border in (1 / 3, 2 / 3))


WEIGHTS = {"person": 1.5, "vehicle": 2.0, "moving": 1.0, "where": 1.0}

PLACED = 3.0
"""How much an answer weighs that names a place: few do, most are "nowhere"."""


CHANGED, PARTLY = 2, 3
"""How much more an answer weighs where something came or went in the newest two strides, and in the newest one."""


def changing(facts: Facts, end: int) -> dict[str, int]:
    """How much more weighs what is said of a class of which something came into view or left it just now.

    There alone it matters which of two pictures of a place is the newer one; and that who was in view for most of the newest
    stride was in view, though the last picture is empty, is seen nowhere else.
    """
    there = facts["seen"][max(0, end - 2 * NEWEST) : end] > 0
    weights = {}
    for c, name in enumerate(q.CLASSES):
        differs = there[:, c] != there[-1, c]
        if differs.any():
            weights[name] = PARTLY if differs[-NEWEST:].any() else CHANGED
    return weights


def pick(
    answers: Mapping[str, str], changed: Mapping[str, int], rng: np.random.Generator, most: int = MAX_QUESTIONS
) -> list[tuple[str, str, float]]:
    """(question, answer, weight) of up to `most` of what is certain: person and vehicle always, one spelling each."""
    first = [name for name in ("person", "vehicle") if name in answers]
    # Answers that are nearly always "no" are asked less often when they are.
    rest = [n for n in answers if n not in first and (answers[n] != "No" or n == "moving" or rng.random() < 0.35)]
    rng.shuffle(rest)
    chosen = (first + rest)[:most]
    weights = {
        name: PLACED if answers[name] in q.PLACES else WEIGHTS.get(name, 0.7) * changed.get(name, 1) for name in chosen
    }
    return [(_spell(name, rng), answers[name], weights[name]) for name in chosen]


def _spell(name: str, rng: np.random.Generator) -> str:
    spellings = q.QUESTIONS[name]
    return spellings[0] if rng.random() < 0.5 else spellings[int(rng.integers(len(spellings)))]
