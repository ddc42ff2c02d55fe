"""codecflow.events: what happened on a stream, from beginning to end, and the state that a worker keeps for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import msgspec

from codecflow.text import one_line

from ._wire import dump, load
from .limits import (
    EVENT_ID,
    MAX_HISTORY,
    MAX_LABEL,
    MAX_LABELS,
    MAX_LINE,
    MAX_PROMPT,
    MAX_QUESTIONS,
    ClockMs,
    Count32,
    Line,
    Name,
    Natural,
    Seconds,
    Share,
)

Change = Literal["opened", "updated", "closed"]

EventKind = Literal["answer", "camera-lost", "silent", "set-aside", "behind"]
EVENT_KINDS: tuple[str, ...] = get_args(EventKind)

EventId = Annotated[str, msgspec.Meta(pattern=EVENT_ID)]
Label = Annotated[str, msgspec.Meta(max_length=MAX_LABEL)]


def event_id(*of: object) -> str:
    """The id of the event identified by `of`: 16 hexadecimal digits."""
    return hashlib.blake2b("\0".join(map(str, of)).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one event: (id, number) occurs once, and number 0 is its opening.

    `kind`: `answer` if a rule evaluates the answers to a question; otherwise a condition that the worker has detected:
    `camera-lost` (its producer lost the camera), `silent` (nothing comes), `set-aside` (it cannot be answered), `behind` (it
    is answered late). `began_at_ms`: wall clock of the capture of the first picture that counts; `at_ms`: of the newest
    picture of the window that made the change, or when the worker detected it. `written_at_ms`: the worker's clock.
    `reason`: one line for people.

    Only for events of the kind `answer`: `question`, its `prompt`, the `label` that the event is about, and `before`, the
    answer that it replaced; `window` of the epoch, which covers presentation times [start_s, end_s), and the `probability`
    of the label in it (None if it closed without a window); `highest`: the highest so far; `windows`: how many answered
    windows it has lasted.
    """

    stream: str
    id: EventId
    number: Count32
    change: Change
    kind: EventKind
    epoch: ClockMs
    began_at_ms: ClockMs
    at_ms: ClockMs
    written_at_ms: ClockMs
    reason: Line
    question: Name | None = None
    prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] | None = None
    label: Label | None = None
    before: Label | None = None
    window: Natural | None = None
    start_s: Seconds | None = None
    end_s: Seconds | None = None
    probability: Share | None = None
    highest: Share | None = None
    windows: Natural | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", one_line(self.reason, MAX_LINE))


def encode_event(event: Event) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    return event.stream.encode(), dump(event)


def decode_event(key: bytes | None, value: bytes | None) -> Event:
    """The event in a record. Raises MessageError on anything that violates this contract."""
    return load(Event, key, value, "event")


class OpenEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event that has not closed. `number`: of its newest change; `since_change_s`: seconds since then."""

    id: EventId
    began_at_ms: ClockMs
    number: Count32 = 0
    since_change_s: Seconds = 0.0
    highest: Share = 0.0
    windows: Natural = 0


Answer = Annotated[int, msgspec.Meta(ge=-1, le=MAX_LABELS - 1)]
"""The index of an answer; -1: none."""


class RuleState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rule's state from one window to the next.

    `of`: the question and rule to which it belongs. `history`: results of its newest answered windows, oldest first: for a
    rule with a label 1 if they count and 0 if not, otherwise the answer's index. `wanted`: what enough of them agree on, and
    `held_s` for how many seconds. `answer`: what is in force; an event is open on it if `open` says so, and `before` was in
    force before it. `since_ms`: capture of the first window that counts, 0 for none. `cooldown_left_s`: seconds in which no
    event opens."""

    question: Name
    of: EventId
    history: Annotated[tuple[Answer, ...], msgspec.Meta(max_length=MAX_HISTORY)] = ()
    wanted: Answer = -1
    held_s: Seconds = 0.0
    answer: Answer = -1
    before: Answer = -1
    since_ms: ClockMs = 0
    cooldown_left_s: Seconds = 0.0
    open: OpenEvent | None = None
    label: Label = ""
    """Of the open event, in case its rule has been removed when it closes."""


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """An open event without a rule."""

    kind: EventKind
    event: OpenEvent


class EventState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The events of a stream's state. `newest_epoch`, `end_s` and `captured_at_ms`: of the newest window that rules have
    evaluated."""

    newest_epoch: ClockMs = 0
    end_s: Seconds = 0.0
    captured_at_ms: ClockMs = 0
    rules: Annotated[tuple[RuleState, ...], msgspec.Meta(max_length=MAX_QUESTIONS)] = ()
    conditions: Annotated[tuple[Condition, ...], msgspec.Meta(max_length=8)] = ()


NO_EVENTS = EventState()
