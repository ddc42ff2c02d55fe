"""One rule: a function of its state and the next window. Any worker that resumes from a committed state gets the same
result.

Independent of Kafka, streams and words: answers are indices, times are elapsed seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from codecflow.messages import EventRule, OpenEvent, RuleState
from codecflow.messages.limits import MAX_TIME_S

NONE = -1
_OFF, _ON = 0, 1


@dataclass(frozen=True, slots=True)
class Seen:
    """An answered window: the probability of each answer, when its newest picture was captured, and the id of an event that
    opens with it."""

    probabilities: Sequence[float]
    captured_at_ms: int
    id: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A change of an event. `answer`, `before`: by index, NONE for none. `probability`: of `answer` in the window; None if
    no window was evaluated."""

    change: Literal["opened", "updated", "closed"]
    event: OpenEvent
    answer: int
    before: int
    probability: float | None


def advance(
    rule: EventRule, label: int, state: RuleState, seen: Seen | None, elapsed_s: float
) -> tuple[RuleState, list[Changed]]:
    """The rule's state after the next window, and the changes that it makes, in order.

    `label`: index of the rule's label, NONE if it has none. `seen`: None for a window without an answer, in which
    only time passes. `elapsed_s`: since the previous window.
    """
    elapsed_s = min(max(elapsed_s, 0.0), float(MAX_TIME_S))
    event = state.open
    if event is not None:
        event = replace(event, since_change_s=_seconds(event.since_change_s + elapsed_s))
    state = replace(state, cooldown_left_s=max(0.0, state.cooldown_left_s - elapsed_s), open=event)
    if seen is None:
        return state, []
    if label == NONE:
        return _changes(rule, state, seen, elapsed_s)
    return _lasting(rule, label, state, seen, elapsed_s)


def close(rule: EventRule | None, state: RuleState) -> tuple[RuleState, list[Changed]]:
    """Close the open event for a reason other than an answer, and reset the history. `rule`: None if it has been removed."""
    forgotten = RuleState(
        state.question,
        state.of,
        answer=state.answer,
        cooldown_left_s=0.0 if rule is None else max(state.cooldown_left_s, rule.cooldown_s),
    )
    if state.open is None:
        return replace(forgotten, cooldown_left_s=state.cooldown_left_s), []
    return forgotten, [Changed("closed", _next(state.open), state.answer, state.before, None)]


def _lasting(
    rule: EventRule, label: int, state: RuleState, seen: Seen, elapsed_s: float
) -> tuple[RuleState, list[Changed]]:
    """An event lasts while the probability of a label is high."""
    probability = seen.probabilities[label]
    before = state.history[-1] if state.history else _OFF
    counts = _ON if probability >= rule.above else _OFF if probability < rule.clear_below else before
    state = _wanting(rule, state, counts, elapsed_s)
    enough = state.history.count(_ON) >= rule.windows[0]
    held_s = state.held_s if enough and state.wanted == _ON else 0.0
    since_ms = 0 if _ON not in state.history else state.since_ms or seen.captured_at_ms
    state = replace(state, wanted=_ON if enough else _OFF, held_s=held_s, since_ms=since_ms)
    if state.open is not None:
        if not enough:
            closed = Changed("closed", _next(_longer(state.open, probability)), label, NONE, probability)
            return replace(state, open=None, answer=NONE, since_ms=0, cooldown_left_s=rule.cooldown_s), [closed]
        return _goes_on(rule, state, label, probability)
    if not enough or state.held_s < rule.for_s or state.cooldown_left_s > 0:
        return state, []
    opened = OpenEvent(seen.id, since_ms, highest=probability, windows=1)
    return replace(state, open=opened, answer=label), [Changed("opened", opened, label, NONE, probability)]


def _changes(rule: EventRule, state: RuleState, seen: Seen, elapsed_s: float) -> tuple[RuleState, list[Changed]]:
    """Each change of the answer is an event."""
    newest = max(range(len(seen.probabilities)), key=seen.probabilities.__getitem__)
    before = state.history[-1] if state.history else NONE
    if seen.probabilities[newest] < rule.above:  # undecided
        state = replace(state, held_s=_seconds(state.held_s + elapsed_s))
        return _goes_on(rule, state, state.answer, seen.probabilities[state.answer])
    state = _wanting(rule, state, newest, elapsed_s)
    if newest != before:
        state = replace(state, since_ms=seen.captured_at_ms)
    if state.history.count(newest) >= rule.windows[0] and state.wanted != newest:
        state = replace(state, wanted=newest, held_s=0.0)
    if state.answer == NONE:  # nothing was known before, so this is no change
        return replace(state, answer=state.wanted), []
    wanted = state.wanted
    if wanted in (NONE, state.answer) or state.held_s < rule.for_s or state.cooldown_left_s > 0:
        return _goes_on(rule, state, state.answer, seen.probabilities[state.answer])
    changes = []
    if state.open is not None:
        last = _next(_longer(state.open, seen.probabilities[state.answer]))
        changes.append(Changed("closed", last, state.answer, state.before, seen.probabilities[state.answer]))
    opened = OpenEvent(seen.id, state.since_ms, highest=seen.probabilities[wanted], windows=1)
    changes.append(Changed("opened", opened, wanted, state.answer, seen.probabilities[wanted]))
    return replace(state, open=opened, before=state.answer, answer=wanted, cooldown_left_s=rule.cooldown_s), changes


def _wanting(rule: EventRule, state: RuleState, value: int, elapsed_s: float) -> RuleState:
    history = (*state.history, value)[-rule.windows[1] :]
    return replace(state, history=history, held_s=_seconds(state.held_s + elapsed_s))


def _goes_on(rule: EventRule, state: RuleState, answer: int, probability: float) -> tuple[RuleState, list[Changed]]:
    """Continue the open event, if there is one, for another window."""
    if state.open is None:
        return state, []
    event = _longer(state.open, probability)
    if not rule.update_s or event.since_change_s < rule.update_s:
        return replace(state, open=event), []
    event = _next(event)
    return replace(state, open=event), [Changed("updated", event, answer, state.before, probability)]


def _longer(event: OpenEvent, probability: float) -> OpenEvent:
    return replace(event, highest=max(event.highest, probability), windows=event.windows + 1)


def _next(event: OpenEvent) -> OpenEvent:
    return replace(event, number=event.number + 1, since_change_s=0.0)


def _seconds(value: float) -> float:
    return min(value, float(MAX_TIME_S))
