"""A rule is a function of its state and the next window: hysteresis, n of m, durations, cooldown, change."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecflow.errors import ConfigError
from codecflow.events.rule import NONE, Changed, Seen, advance, close
from codecflow.events.syntax import parse_rule, rule_text
from codecflow.messages import EventRule, Question, RuleState

BEGIN = RuleState("person", "0" * 16)
STRIDE_S = 8.0

Window = tuple[float, ...] | None
"""The probability of each answer; None for a window without an answer."""


def run(rule: EventRule, windows: list[Window], *, label: int = 0, forgetful: bool = False) -> list[Changed]:
    """The rule's changes for windows 8 s apart. `forgetful`: its state makes a round trip through its wire form after each
    of them, as when a worker is replaced."""
    state, found = BEGIN, []
    label = NONE if rule.label is None else label
    for index, window in enumerate(windows):
        seen = None if window is None else Seen(window, 1000 * (8 * index + 1), f"{index:016x}")
        state, changes = advance(rule, label, state, seen, STRIDE_S if index else 0.0)
        found += changes
        if forgetful:
            state = msgspec.json.decode(msgspec.json.encode(state), type=RuleState)
    return found


def changes_by_window(rule: EventRule, yes: list[float | None]) -> list[tuple[str, int]]:
    """Changes and the windows in which they come, for probabilities of yes."""
    found = []
    state = BEGIN
    for index, p in enumerate(yes):
        seen = None if p is None else Seen((p, 1 - p), index + 1, f"{index:016x}")
        state, changes = advance(rule, 0, state, seen, STRIDE_S if index else 0.0)
        found += [(change.change, index) for change in changes]
    return found


def rule(text: str) -> EventRule:
    return parse_rule(f"{text},update=0")


@pytest.mark.parametrize(
    ("text", "yes", "expected"),
    [
        ("yes>=0.8", [0.1, 0.8, 0.9, 0.79], [("opened", 1), ("closed", 3)]),
        ("yes>=0.8,below=0.5", [0.6, 0.9, 0.6, 0.5, 0.49, 0.6], [("opened", 1), ("closed", 4)]),
        ("yes>=0.8,windows=2/3", [0.9, 0.1, 0.9, 0.1, 0.1], [("opened", 2), ("closed", 3)]),
        ("yes>=0.8,windows=3/3", [0.9, 0.9, None, 0.9, 0.1], [("opened", 3), ("closed", 4)]),
        ("yes>=0.8,windows=1/3", [0.9, 0.1, 0.1, 0.1], [("opened", 0), ("closed", 3)]),
        ("yes>=0.8,for=10", [0.9, 0.9, 0.9, 0.1], [("opened", 2), ("closed", 3)]),
        ("yes>=0.8,for=10", [0.9, 0.9, 0.1, 0.9, 0.9], []),
        ("yes>=0.8,cooldown=20", [0.9, 0.1, 0.9, 0.9, 0.9], [("opened", 0), ("closed", 1), ("opened", 4)]),
        ("yes>=0.8", [0.9, None, None, 0.9], [("opened", 0)]),
    ],
)
def test_when_events_open_and_close(text: str, yes: list[float | None], expected: list[tuple[str, int]]) -> None:
    assert changes_by_window(rule(text), yes) == expected


def test_an_open_event_is_updated_now_and_then() -> None:
    found = run(parse_rule("yes>=0.8,update=16"), [(p, 1 - p) for p in (0.8, 0.9, 0.95, 0.85, 0.81, 0.1)])
    assert [(c.change, c.event.number, c.event.windows) for c in found] == [
        ("opened", 0, 1),
        ("updated", 1, 3),
        ("updated", 2, 5),
        ("closed", 3, 6),
    ]
    assert {c.event.id for c in found} == {"0" * 16}
    assert found[-1].event.highest == 0.95
    assert found[-1].event.began_at_ms == 1000


def test_an_event_begins_with_the_first_window_that_counts() -> None:
    found = run(rule("yes>=0.8,windows=2/3"), [(0.1,), (0.9,), (0.1,), (0.9,), (0.1,), (0.9,), (0.9,)])
    assert [(c.change, c.event.began_at_ms) for c in found] == [
        ("opened", 9000),
        ("closed", 9000),
        ("opened", 41000),  # not with the window of the previous event
    ]


def test_each_change_of_the_answer_is_an_event() -> None:
    red, green, unsure = (0.9, 0.1), (0.2, 0.8), (0.45, 0.55)
    found = run(parse_rule("change>=0.6,windows=2/3,update=0"), [red, red, unsure, green, green, green, red, red])
    assert [(c.change, c.before, c.answer, c.event.began_at_ms) for c in found] == [
        ("opened", 0, 1, 25_000),
        ("closed", 0, 1, 25_000),
        ("opened", 1, 0, 49_000),
    ]


def test_what_is_open_closes_when_its_rule_goes() -> None:
    state, _ = advance(rule("yes"), 0, BEGIN, Seen((0.9, 0.1), 1, "a" * 16), 0.0)
    after, (change,) = close(None, state)
    assert (change.change, change.event.id, change.event.number, change.probability) == ("closed", "a" * 16, 1, None)
    assert after.open is None
    assert close(None, after)[1] == []


seconds = st.sampled_from([0.0, 8.0, 20.0])
windows = st.integers(1, 4).flatmap(lambda of: st.tuples(st.integers(1, of), st.just(of)))
rules = st.builds(
    EventRule,
    st.none() | st.just("yes"),
    st.sampled_from([0.5, 0.8]),
    st.none(),
    windows,
    seconds,
    seconds,
    seconds,
) | st.builds(EventRule, st.just("yes"), st.just(0.8), st.sampled_from([0.3, 0.8]), windows, seconds, seconds, seconds)
probabilities = st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.85, 1.0])
answers = st.lists(st.none() | probabilities.map(lambda p: (p, 1 - p)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(rules, answers)
def test_events_of_any_rule_are_whole(rule: EventRule, windows: list[Window]) -> None:
    """For any input: each event opens, is updated and closes under one id with consecutive numbers, one at a time, and
    continues the same way in another worker."""
    found = run(rule, windows)
    assert run(rule, windows, forgetful=True) == found
    open_id, number, ids = None, 0, set()
    for change in found:
        if change.change == "opened":
            assert open_id is None
            assert change.event.id not in ids
            open_id, number = change.event.id, 0
            ids.add(open_id)
        assert (change.event.id, change.event.number) == (open_id, number)
        number += 1
        if change.change == "closed":
            open_id = None
    if rule == EventRule("yes", rule.above, update_s=0.0):  # the simple rule, checked by its definition
        high = [p[0] >= rule.above for p in windows if p is not None]
        edges = sum(a != b for a, b in zip([False, *high], high, strict=False))
        assert len(found) == edges


@given(rules)
def test_a_rule_is_written_as_it_is_read(rule: EventRule) -> None:
    assert parse_rule(rule_text(rule)) == rule
    assert msgspec.json.decode(msgspec.json.encode(rule), type=EventRule) == rule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "use ANSWER"),
        ("yes>=", "use ANSWER"),
        (">=0.5", "use ANSWER"),
        ("yes>=1", "above 1: use a probability from 0.001 to 0.999"),
        ("yes>=0", "above 0: use"),
        ("yes>=nan", "use a number"),
        ("yes>=1e400", "use a number"),
        ("yes>=0.5,below=0.6", "below 0.6 is more than above 0.5"),
        ("yes,below=0", "below 0: use"),
        ("change,below=0.4", "below requires a label"),
        ("yes,windows=3/2", "3 of 2 windows: use numbers from 1 to 32"),
        ("yes,windows=0/2", "0 of 2 windows"),
        ("yes,windows=2/33", "2 of 33 windows"),
        ("yes,windows=2", "use N/M"),
        ("yes,for=-1", "use a number"),
        ("yes,cooldown=604801", "cooldown 604801 s: use 0 to 604800 seconds"),
        ("yes,for=1,for=2", "for is given twice"),
        ("yes,,for=1", "an empty part"),
        ("yes,often=1", "often=1: use ANSWER"),
        ("\x1b[2J\n>=2\x00", r"\\x1b"),
    ],
)
def test_a_rule_that_cannot_fire_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        parse_rule(text)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("type_", "labels", "text", "says"),
    [
        ("text", (), "change", "cannot fire on a text answer"),
        ("yes-no", (), "maybe", "'maybe' cannot fire: it is not among the answers yes, no"),
        ("choice", ("red", "green"), "blue>=0.5", "'blue' cannot fire: it is not among the answers red, green"),
    ],
)
def test_a_rule_must_fit_its_question(type_: str, labels: tuple[str, ...], text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Question("light", "Which light?", type_, labels, event=parse_rule(text))  # type: ignore[arg-type]
