"""A worker's reports when something goes wrong: dead letters, a loop that hangs."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from codecflow import subscriber
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import DeadLetter, Question, decode_dead_letter, encode_packet
from codecflow.vlm.engine import Engine
from codecflow.vlm.families import Family
from codecflow.vlm.work import Frame, StreamWork
from codecflow.worker.dead_letter_queue import DeadLetters
from codecflow.worker.service import Worker
from codecflow.worker.stuck import StuckDetector
from tests.kafka.raw_client import publish_with_header_name

from .memory import publish
from .running import Process, Running, once, results, send, until


def letters(settings: KafkaSettings) -> list[DeadLetter]:
    with TopicTail(settings, settings.topics.dead_letter) as tail:
        return [decode_dead_letter(record.key(), record.value()) for record in tail.catch_up()]


def rubbish(settings: KafkaSettings, count: int) -> None:
    with RecordSender(settings) as sender:
        for n in range(count):
            sender.send(Record(settings.topics.packets, b"a", b"rubbish %d" % n, "rubbish"))


def test_a_few_unreadable_records_are_reported_by_their_coordinates(
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


def test_no_record_stops_a_worker_or_the_stream_beside_it(
    kafka_settings: KafkaSettings, family: Family, clip: Path
) -> None:
    """Huge numbers, or numbers expensive to compute, audio codecs, keys of megabytes, questions that cannot be answered."""
    picture = publish(clip, "a")[0][0]
    header = encode_packet(picture)[2][0][1].decode()
    poison = {
        "time base": re.sub(r'"time_base":\[\d+,', '"time_base":[1e2000000000,', header),
        "time base beyond 31 bits": re.sub(r'"time_base":\[\d+,', '"time_base":[4294967296,', header),
        "pts": re.sub(r'"pts":-?\d+', f'"pts":{2**70}', header),
        "dts": re.sub(r'"dts":-?\d+', f'"dts":{-(2**63)}', header),
        "width": re.sub(r'"width":\d+', f'"width":{2**32}', header),
        "codec of sound": header.replace('"h264"', '"aac"'),
        "unknown codec": header.replace('"h264"', '"nosuchcodec"'),
        "epoch": re.sub(r'"epoch":\d+', f'"epoch":{10**14}', header),
        "nested": header[:-1] + ',"x":' + "[" * 500,
    }
    assert header not in poison.values()
    keys = (b"k" * (2 << 20), b"\xff\xfe" * (1 << 20), b"", b"a stream", b"a\x1b[2J")
    names = kafka_settings.topics
    with RecordSender(kafka_settings) as sender:
        for text in poison.values():
            sender.send(Record(names.packets, b"a", picture.data, "poison", [("picture", text.encode())]))
        for name in keys:
            sender.send(Record(names.packets, name, picture.data, "poison", [("picture", header.encode())]))
        for question in ('"labels":["red",""]', '"labels":["red","red "]'):
            text = f'{{"v":1,"questions":[{{"id":"q","prompt":"Which?","type":"choice",{question}}}]}}'
            sender.send(Record(names.streams, b"b", text.encode(), "poison"))
    publish_with_header_name(kafka_settings, names.packets, b"\xff\xfe")
    subscriber.ask(kafka_settings, "a", Question("scene", "What is there?", max_tokens=2))
    with RecordSender(kafka_settings) as sender:
        long = f'{{"v":1,"questions":[{{"id":"q","prompt":"{"x" * 5000}","type":"text"}}]}}'
        sender.send(Record(names.streams, b"a", long.encode(), "poison"))
    send(kafka_settings, publish(clip, "a"), publish(clip, "b"))
    Running(kafka_settings, family).join()
    found = once(results(kafka_settings))
    # The description of "a" before the last one stays in force; "b" has the worker's own question.
    assert found.keys() == {(stream, 1, k, q) for stream, q in (("a", "scene"), ("b", "person")) for k in range(10)}
    dead = letters(kafka_settings)
    assert len(dead) == len(poison) + len(keys) + 1 + 3
    assert all(len(x.stream) <= 300 and x.stream.isprintable() and x.reason.isprintable() for x in dead)


def test_many_unreadable_records_stop_nobody_and_are_not_read_again(
    kafka_settings: KafkaSettings, family: Family, clip: Path
) -> None:
    rubbish(kafka_settings, 350)
    good = publish(clip, "a")
    send(kafka_settings, good)
    worker = Running(kafka_settings, family)
    assert worker.join().dead_letters == 350
    assert len(once(results(kafka_settings))) == 10
    # At most a hundred per minute become dead letters; the others are counted, which is reported once.
    assert [x.offset for x in letters(kafka_settings)] == list(range(100))
    lines = [line for line in worker.said if "cannot be used" in line]
    assert len(lines) == 1
    assert "more than 100 records of 'a' within 60 s cannot be used, the last one at offset 100" in lines[0]
    # The offsets have moved: a successor does not see them again.
    again = Running(kafka_settings, family, until_end=False)
    until(lambda: again.summary.partitions == 3, what="its partitions")
    assert again.stop().dead_letters == 0
    assert len(letters(kafka_settings)) == 100


def test_unreadable_records_alone_move_the_offsets(kafka_settings: KafkaSettings, family: Family) -> None:
    rubbish(kafka_settings, 350)
    first = Running(kafka_settings, family, until_end=False)
    until(lambda: first.summary.dead_letters == 350, what="all records")
    first.stop()
    again = Running(kafka_settings, family, until_end=False)
    until(lambda: again.summary.partitions == 3, what="its partitions")
    assert again.stop().dead_letters == 0


def test_dead_letters_are_limited_per_source_and_minute() -> None:
    now, said = [0.0], []
    box = DeadLetters(said.append, limit=2, clock=lambda: now[0])

    def add(stream: str, count: int) -> None:
        for n in range(count):
            box.add(DeadLetter("t", 0, n, stream, "unreadable", "why"))

    add("noisy", 5)
    add("other", 2)
    assert [(letter.stream, letter.offset) for letter in box.ready({})] == [
        ("noisy", 0),
        ("noisy", 1),
        ("other", 0),
        ("other", 1),
    ]
    assert len(said) == 1
    now[0] = 61.0
    add("noisy", 1)
    assert said[1] == "t[0]: 3 further records could not be used in the last 61 s"
    assert box.total == 8
    box.sent(box.ready({})[:4])
    assert [letter.stream for letter in box.ready({})] == ["noisy"]
    for n in range(20):
        add(f"stream-{n}", 1)
    assert len(box.ready({})) == 10  # five times as many per partition


def test_a_dead_letter_waits_for_the_offset_to_move_past_its_record() -> None:
    """A successor reads the record again, and would write another one."""
    box = DeadLetters(group_topics=("packets", "metadata"))
    for topic, partition, offset in (("packets", 0, 5), ("metadata", 0, 5), ("packets", 1, 5), ("state", 0, 5)):
        box.add(DeadLetter(topic, partition, offset, "gate", "unreadable", "why"))

    def ready(offsets: dict[int, tuple[int, int]]) -> list[tuple[str, int]]:
        return [(letter.topic, letter.partition) for letter in box.ready(offsets)]

    assert ready({}) == ready({0: (5, 5), 1: (0, 9)}) == [("state", 0)]
    assert ready({0: (6, 5)}) == [("packets", 0), ("state", 0)]
    box.sent(box.ready({0: (6, 5)}))
    assert ready({0: (9, 9), 1: (9, 9)}) == [("metadata", 0), ("packets", 1)]
    box.keep({1})  # partition 0 belongs to another worker now
    assert ready({0: (9, 9), 1: (9, 9)}) == [("packets", 1)]


def test_a_loop_that_stands_still_shows_its_stacks_once_and_is_ended(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    ended: list[int] = []
    over = threading.Event()

    def the_loop_that_is_stuck() -> None:
        with StuckDetector(0.4, said.append, end=ended.append) as stuck:
            for _ in range(10):
                stuck.beat()
                time.sleep(0.04)
            over.wait(60)

    thread = threading.Thread(target=the_loop_that_is_stuck)
    thread.start()
    until(lambda: bool(ended), 60, "the end")
    over.set()
    thread.join()
    assert ended == [6]
    assert "has not finished for" in said[0]
    assert "ending" in said[1]
    stacks = capfd.readouterr().err
    assert stacks.count("in the_loop_that_is_stuck") == 1


def test_long_answers_are_not_taken_for_a_frozen_engine(family: Family) -> None:
    """Otherwise one stream's question would end each worker that has it."""
    engine, began = Engine(family), list[float]()
    worker: Any = SimpleNamespace(_answering=SimpleNamespace(pace=engine.pace))
    assert Worker._busy(worker) == []
    engine.pace.begin()
    ((what, since),) = Worker._busy(worker)
    assert what == "a forward of the engine"
    beat = engine.answers._beat

    def beat_and_note() -> None:
        beat()
        assert engine.pace.at is not None
        began.append(engine.pace.at)

    engine.answers._beat = beat_and_note
    frame = Frame(0, 0.0, np.ones(16, bool), np.zeros((64, 14, 14, 3), np.uint8), (112, 112), anchor=True)
    question = Question("scene", "What is there?", max_tokens=8)
    engine.step([StreamWork("a", [frame], 0, (question,))])
    assert len(began) == 7, "a forward for each token after the first one"
    assert [since, *began] == sorted({since, *began})
    assert engine.pace.longest_s > 0
    engine.pace.at = time.monotonic() - 5.1 * engine.pace.longest_s
    assert Worker._busy(worker) == [("a forward of the engine", engine.pace.at)]
    engine.pace.end()
    assert Worker._busy(worker) == []


def test_a_frozen_engine_ends_the_worker_with_stacks(
    kafka_settings: KafkaSettings, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    # Long enough that on a busy machine the engine's thread has begun by then.
    process = Process(kafka_settings, checkpoint, tmp_path, "--question", "What is there?", stuck_after_s=4.0)
    send(kafka_settings, publish(clip, "a"))
    status, _, errors = process.end()
    assert status == 6
    assert "a forward of the engine has not finished" in errors
    assert "in frozen_step" in errors


def test_dead_letters_that_cannot_be_written_yet_are_bounded_in_all() -> None:
    """Offsets stand still while an old window is open, for hours perhaps, and every minute brings bad records."""
    said: list[str] = []
    now = [0.0]
    box = DeadLetters(said.append, ("packets", "metadata"), clock=lambda: now[0], most=150)
    for minute in range(4):
        now[0] = minute * 61.0
        for n in range(60):
            box.add(DeadLetter("packets", 0, minute * 60 + n, "gate", "unreadable", "why"))
    assert len(box.ready({0: (1000, 1000)})) == 150
    assert box.total == 240
    assert "packets[0]: the record of 'gate' at offset 150 cannot be used: why" in said[0]
    assert "150 dead letters wait until the group's offsets move past their records" in said[0]
    assert said[1] == "packets[0]: 30 further records could not be used in the last 61 s"
    box.sent(box.ready({0: (150, 0)}))
    now[0] += 61.0
    box.add(DeadLetter("packets", 0, 240, "gate", "unreadable", "why"))
    assert [letter.offset for letter in box.ready({0: (1000, 1000)})] == [240]
