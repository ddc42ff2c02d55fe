"""What a worker says when something goes wrong: dead letters, a loop that stands still."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from codecflow.errors import MessageError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import DeadLetter, decode_dead_letter
from codecflow.vlm.families import Family
from codecflow.worker.deadletters import DeadLetters
from codecflow.worker.stuck import StuckDetector

from .memory import publish
from .running import Running, once, results, send, until


def letters(settings: KafkaSettings) -> list[DeadLetter]:
    with TopicTail(settings, settings.topics.dead_letter) as tail:
        return [decode_dead_letter(record.key(), record.value()) for record in tail.catch_up()]


def rubbish(settings: KafkaSettings, count: int) -> None:
    with RecordSender(settings) as sender:
        for n in range(count):
            sender.send(Record(settings.topics.packets, b"a", b"rubbish %d" % n, "rubbish"))


def test_a_few_unreadable_records_are_told_by_their_coordinates(
    kafka_settings: KafkaSettings, family: Family, clip: Path
) -> None:
    rubbish(kafka_settings, 3)
    with RecordSender(kafka_settings) as sender:
        sender.send(Record(kafka_settings.topics.streams, b"a", b"{}", "no description"))
    send(kafka_settings, publish(clip, "a"))
    summary = Running(kafka_settings, family).join()
    assert len(once(results(kafka_settings))) == 10
    assert summary.dead_letters == 4
    found = letters(kafka_settings)
    assert sorted((x.topic.split(".")[-1], x.offset, x.stream, x.code) for x in found) == [
        ("packets", 0, "a", "unreadable"),
        ("packets", 1, "a", "unreadable"),
        ("packets", 2, "a", "unreadable"),
        ("streams", 0, "a", "unreadable"),
    ]
    assert {x.reason for x in found if x.topic.endswith("packets")} == {"packet: header 'picture' is missing"}


def test_too_many_unreadable_records_end_the_worker_with_nothing_lost(
    kafka_settings: KafkaSettings, family: Family, clip: Path
) -> None:
    rubbish(kafka_settings, 150)
    worker = Running(kafka_settings, family, until_end=False)
    until(lambda: worker.error is not None, what="the end of the worker")
    with pytest.raises(MessageError, match=r"101 records within 60 s could not be used, the last one in .*\.packets\["):
        worker.join()
    found = letters(kafka_settings)
    assert [x.offset for x in found] == list(range(101))
    # No offset was moved: a worker that can read them finds all of them.
    again = Running(kafka_settings, family, until_end=False)
    until(lambda: again.error is not None, what="the end of the second worker")
    assert [x.offset for x in letters(kafka_settings)] == [*range(101), *range(101)]


def test_dead_letters_may_come_at_a_slow_rate_for_ever() -> None:
    now = [0.0]
    box = DeadLetters(most=2, within_s=60, clock=lambda: now[0])
    for n in range(50):
        now[0] = n * 31.0
        box.add(DeadLetter("t", 0, n, "s", "unreadable", "why"))
    assert box.total == 50
    box.sent(box.waiting[:48])
    assert [letter.offset for letter in box.waiting] == [48, 49]


def test_a_loop_that_stands_still_shows_its_stacks_once(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    over = threading.Event()

    def the_loop_that_is_stuck() -> None:
        with StuckDetector(0.2, said.append) as stuck:
            for _ in range(10):
                stuck.beat()
                time.sleep(0.04)
            assert said == []
            over.wait(10)

    thread = threading.Thread(target=the_loop_that_is_stuck)
    thread.start()
    until(lambda: bool(said), 10, "a line")
    time.sleep(0.3)
    over.set()
    thread.join()
    assert len(said) == 1
    assert "has not turned for" in said[0]
    stacks = capfd.readouterr().err
    assert stacks.count("in the_loop_that_is_stuck") == 1
