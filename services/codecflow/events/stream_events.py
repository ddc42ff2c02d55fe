"""The events of one stream: its rules and conditions, from one committed state to the next.

If the returned state and events are committed in one transaction, each event is emitted once: the next call, in any worker,
starts from that state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from codecflow.messages import (
    Change,
    Condition,
    Event,
    EventKind,
    EventRule,
    EventState,
    OpenEvent,
    Question,
    Result,
    RuleState,
    event_id,
)

from .rule import NONE, Changed, Seen, advance, close


def follow(
    stream: str,
    state: EventState,
    questions: Sequence[Question],
    results: Sequence[Result],
    now_ms: int,
    ending: str | None = None,
) -> tuple[EventState, list[Event]]:
    """Evaluate the results of one window, one per question, or of none.

    `now_ms`: wall clock. `ending`: why no further windows come for now: open events close. Events of questions that were
    removed or changed close as well.
    """
    events: list[Event] = []
    clock = _Clock(state, results)
    kept = {one.question: one for one in state.rules}
    by_question = {result.question: result for result in results}
    rules = []
    for question in questions:
        if question.event is None:
            continue
        of = _of(question)
        one = kept.get(question.id)
        if one is not None and one.of == of:
            del kept[question.id]
        else:
            one = RuleState(question.id, of)
        one, changes = _window(stream, question, question.event, one, by_question.get(question.id), clock)
        result = by_question.get(question.id)
        for change in changes:
            assert result is not None
            events.append(_event(stream, question, change, result, now_ms))
        if ending is not None:
            one, changes = close(question.event, one)
            events += [_closed(stream, one, question, change, clock, ending, now_ms) for change in changes]
        rules.append(one)
    for gone in kept.values():
        _, changes = close(None, gone)
        removed = "the question or its rule was changed or removed"
        events += [_closed(stream, gone, None, change, clock, removed, now_ms) for change in changes]
    after = EventState(clock.epoch, clock.end_s, clock.captured_at_ms, tuple(rules), state.conditions)
    return after if rules or state.conditions else EventState(), events


def conditions(
    stream: str, state: EventState, epoch: int, present: Mapping[EventKind, str], now_ms: int
) -> tuple[EventState, list[Event]]:
    """Open an event for each condition that is `present`, with its reason, and close the events of other conditions."""
    events, kept = [], []
    for one in state.conditions:
        if one.kind in present:
            kept.append(one)
        else:
            last = msgspec.structs.replace(one.event, number=one.event.number + 1)
            events.append(_told(stream, epoch, one.kind, last, "closed", now_ms, _OVER[one.kind]))
    there = {one.kind for one in kept}
    for kind, reason in present.items():
        if kind not in there:
            opened = OpenEvent(event_id(stream, kind, epoch, now_ms), now_ms)
            kept.append(Condition(kind, opened))
            events.append(_told(stream, epoch, kind, opened, "opened", now_ms, reason))
    return msgspec.structs.replace(state, conditions=tuple(kept)), events


def present(state: EventState) -> set[EventKind]:
    """Kinds of the conditions whose events are open."""
    return {one.kind for one in state.conditions}


def since(state: EventState, kind: EventKind) -> int | None:
    """When the open event of this kind began, in ms; None if there is none."""
    return next((one.event.began_at_ms for one in state.conditions if one.kind == kind), None)


_OVER: Mapping[EventKind, str] = {
    "camera-lost": "the camera is back",
    "silent": "pictures arrive again",
    "set-aside": "it is answered again",
    "behind": "it has caught up",
    "answer": "",
}


class _Clock:
    """The current window, and the time since the previous one."""

    def __init__(self, state: EventState, results: Sequence[Result]) -> None:
        self.epoch, self.end_s, self.captured_at_ms = state.newest_epoch, state.end_s, state.captured_at_ms
        self.elapsed_s = 0.0
        if not results:
            return
        newest = results[0]
        if newest.epoch == state.newest_epoch:
            # Presentation time: a file published faster than real time has the same events.
            self.elapsed_s = newest.end_s - state.end_s
        elif state.captured_at_ms:
            self.elapsed_s = (newest.captured_at_ms - state.captured_at_ms) / 1000
        self.epoch, self.end_s, self.captured_at_ms = newest.epoch, newest.end_s, newest.captured_at_ms


def _window(
    stream: str, question: Question, rule: EventRule, state: RuleState, result: Result | None, clock: _Clock
) -> tuple[RuleState, list[Changed]]:
    if result is None:
        return state, []
    label = NONE if rule.label is None else question.answers.index(rule.label)
    seen = None
    if result.error is None and (probabilities := _probabilities(question, result)):
        identity = event_id(stream, question.id, state.of, result.epoch, result.window)
        seen = Seen(probabilities, result.captured_at_ms, identity)
    after, changes = advance(rule, label, state, seen, clock.elapsed_s)
    name = "" if after.open is None else question.answers[after.answer]
    return msgspec.structs.replace(after, label=name), changes


def _probabilities(question: Question, result: Result) -> list[float]:
    if question.type == "yes-no":
        return [] if result.p_yes is None else [result.p_yes, 1.0 - result.p_yes]
    found = result.label_probabilities
    return [] if found is None else [found.get(label, found.get(label.strip(), 0.0)) for label in question.labels]


def _of(question: Question) -> str:
    """What a rule's state belongs to: a change of prompt, answers or thresholds starts a new state."""
    rule = question.event
    return event_id(question.id, question.prompt, question.type, *question.answers, rule)


def _event(stream: str, question: Question, change: Changed, result: Result, now_ms: int) -> Event:
    rule, event = question.event, change.event
    assert rule is not None
    answers = question.answers
    label = answers[change.answer]
    text = f"p({label}) {change.probability:.2f}" if change.probability is not None else label
    if rule.windows != (1, 1):
        still = "no longer " if change.change == "closed" else ""
        text += f", {still}in {rule.windows[0]} of {rule.windows[1]} windows"
    if rule.label is None and change.change == "closed":
        text = f"no longer {label}"
    elif change.change == "closed" and rule.windows == (1, 1):
        text += f", below {rule.clear_below:g}"
    before = None if change.before == NONE else answers[change.before]
    return Event(
        stream,
        event.id,
        event.number,
        change.change,
        "answer",
        result.epoch,
        event.began_at_ms,
        result.captured_at_ms,
        now_ms,
        text,
        question.id,
        question.prompt,
        label,
        before,
        result.window,
        result.start_s,
        result.end_s,
        change.probability,
        event.highest,
        event.windows,
    )


def _closed(
    stream: str,
    state: RuleState,
    question: Question | None,
    change: Changed,
    clock: _Clock,
    reason: str,
    now_ms: int,
) -> Event:
    """An event that closes without a window."""
    event = change.event
    label = state.label if question is None else question.answers[change.answer]
    before = None if question is None or change.before == NONE else question.answers[change.before]
    return Event(
        stream,
        event.id,
        event.number,
        "closed",
        "answer",
        clock.epoch,
        event.began_at_ms,
        clock.captured_at_ms,
        now_ms,
        reason,
        state.question,
        None if question is None else question.prompt,
        label,
        before,
        highest=event.highest,
        windows=event.windows,
    )


def _told(
    stream: str, epoch: int, kind: EventKind, event: OpenEvent, change: Change, now_ms: int, reason: str
) -> Event:
    return Event(
        stream,
        event.id,
        event.number,
        change,
        kind,
        epoch,
        event.began_at_ms,
        now_ms,
        now_ms,
        reason,
    )
