"""Checks that answers under faults equal those of a single undisturbed worker."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from codecflow import subscriber
from codecflow.errors import KafkaError
from codecflow.kafka.clients import producer
from codecflow.kafka.records import headers_of
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import Event, Result, decode_dead_letter, decode_masks

from .faults import BASE, Coordinates

TOLERANCE = 1e-3
"""Tolerance of a probability: batching with other streams may change it by this much."""

Place = tuple[str, int, float, float, str]
"""Stream, epoch, start and end of a window in seconds, and question."""


@dataclass(slots=True)
class Verdict:
    """`windows`: expected; `lost`, `doubled`: missing and duplicate windows and records; `different`: answers that differ
    from the undisturbed ones; `unknown`: unexpected results; `worst`: largest difference of probabilities. `events`: number
    of events."""

    windows: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    worst: float = 0.0
    events: int = 0


def results(settings: KafkaSettings) -> list[Result]:
    """All results that readers of committed records see now."""
    with subscriber.Follower(settings, from_beginning=True, stopping=lambda: True) as follower:
        return list(follower)


def place(result: Result) -> Place:
    return result.stream, result.epoch, result.start_s, result.end_s, result.question


def copy(settings: KafkaSettings, to: KafkaSettings) -> None:
    """Copies the records of packets and metadata, partition by partition."""
    client = producer(to)
    for topic, other in ((settings.topics.packets, to.topics.packets), (settings.topics.metadata, to.topics.metadata)):
        with TopicTail(settings, topic) as tail:
            for record in tail.catch_up(300):
                headers = headers_of(record)
                number = record.partition()
                assert number is not None
                while True:
                    try:
                        client.produce(other, record.value(), record.key(), number, headers=headers)  # type: ignore[arg-type]
                        break
                    except BufferError:
                        client.poll(0.1)
    if client.flush(120):
        raise KafkaError("the records were not copied within 120 s")


def missing_windows(found: list[Result], expected: dict[str, list[Result]]) -> list[str]:
    """The missing windows of each stream and epoch. `expected`: undisturbed results by stride.

    With a single stride, every window is expected. Otherwise at least one window in each of the longest strides, since a
    stream continues at the next boundary of the new plan.
    """
    answered = [result for result in found if result.question == BASE.id]
    if len(expected) == 1:
        (reference,) = expected.values()
        there = {place(result) for result in answered}
        return sorted(str(place(result)) for result in reference if place(result) not in there)
    longest = max(float(stride) for stride in expected)
    ends: dict[tuple[str, int], set[float]] = defaultdict(set)
    for result in answered:
        ends[result.stream, result.epoch].add(result.end_s)
    last: dict[tuple[str, int], float] = defaultdict(float)
    for reference in expected.values():
        for result in reference:
            epoch = (result.stream, result.epoch)
            last[epoch] = max(last[epoch], result.end_s)
    lost = []
    for epoch, until in last.items():
        at = 0.0
        for end in [*sorted(ends[epoch]), until]:
            if end - at > longest + 1e-6:
                lost.append(f"{epoch[0]}, epoch {epoch[1]}: nothing between {at:g} and {end:g} s")
            at = end
    return lost


def verify(settings: KafkaSettings, expected: dict[str, list[Result]], poison: list[Coordinates]) -> Verdict:
    """Compares the topics with `expected`, undisturbed results by stride, and with the records sent as `poison`."""
    found = results(settings)
    verdict = Verdict(lost=missing_windows(found, expected))
    times = Counter(place(result) for result in found)
    verdict.doubled += [f"{key}: {count} times" for key, count in times.items() if count > 1]
    known: dict[Place, Result] = {}
    for reference in expected.values():
        known |= {place(result): result for result in reference}
    verdict.windows = len(known) if len(expected) == 1 else len({place(x) for x in found if x.question == BASE.id})
    for result in found:
        if result.question != BASE.id:
            continue
        other = known.get(place(result))
        if other is None:
            verdict.unknown.append(str(place(result)))
        elif len(expected) == 1:
            _compare(result, other, verdict)
    letters = Counter(_letters(settings))
    verdict.doubled += [f"dead letter {key}: {count} times" for key, count in letters.items() if count > 1]
    verdict.lost += [f"dead letter of {key}" for key in poison if key not in letters]
    windows = {(result.stream, result.epoch, result.window) for result in found}
    masks = Counter(_masks(settings))
    verdict.doubled += [f"masks {key}: {count} times" for key, count in masks.items() if count > 1]
    verdict.lost += [f"masks of {key}" for key in windows - {key[:3] for key in masks}]
    with subscriber.EventFollower(settings, from_beginning=True, stopping=lambda: True) as follower:
        _whole(list(follower), verdict)
    return verdict


def _whole(events: list[Event], verdict: Verdict) -> None:
    """Each event is opened, updated and closed, in this order, without duplicate records."""
    found: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        found[event.stream, event.id].append(event)
    verdict.events = len(found)
    for name, records in found.items():
        numbers = [record.number for record in records]
        twice = {number for number in numbers if numbers.count(number) > 1}
        verdict.doubled += [f"event {name}, record {number}" for number in twice]
        verdict.lost += [f"event {name}, record {n}" for n in set(range(max(numbers))) - {*numbers}]
        for record in records:
            if (record.change == "opened") != (record.number == 0) or (
                record.change == "closed" and record.number < max(numbers)
            ):
                verdict.different.append(f"event {name}: record {record.number} is {record.change}")


def _compare(result: Result, other: Result, verdict: Verdict) -> None:
    difference = abs((result.p_yes or 0.0) - (other.p_yes or 0.0))
    verdict.worst = max(verdict.worst, difference)
    if difference > TOLERANCE or (result.frames.seen, result.frames.expected) != (
        other.frames.seen,
        other.frames.expected,
    ):
        verdict.different.append(
            f"{place(result)}: p(yes) {result.p_yes} of {result.frames.seen} frames, undisturbed {other.p_yes} of "
            f"{other.frames.seen}"
        )


def _letters(settings: KafkaSettings) -> list[Coordinates]:
    with TopicTail(settings, settings.topics.dead_letter) as tail:
        letters = [decode_dead_letter(record.key(), record.value()) for record in tail.catch_up()]
    return [(letter.topic, letter.partition, letter.offset) for letter in letters]


def _masks(settings: KafkaSettings) -> list[tuple[str, int, int, int]]:
    with TopicTail(settings, settings.topics.masks) as tail:
        found = [decode_masks(record.key(), record.value()) for record in tail.catch_up()]
    return [(masks.stream, masks.epoch, masks.window, masks.frames[0].seq if masks.frames else -1) for masks in found]
