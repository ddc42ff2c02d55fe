"""Answers as a subscriber sees them: only committed ones, each once, in order."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import pytest

from codecflow.errors import KafkaError
from codecflow.kafka.settings import KafkaSettings
from codecflow.subscriber import Follower

from .example_results import commit, publish_raw, windows


def test_what_is_committed_later_is_followed_in_order(kafka_settings: KafkaSettings) -> None:
    commit(kafka_settings, windows("gate", 2))
    # Committed does not mean readable yet: brokers mark the records a moment later.
    with Follower(kafka_settings, "gate", from_beginning=True, stopping=lambda: True) as earlier:
        assert len(list(earlier)) == 2
    with Follower(kafka_settings, "gate", timeout_s=120) as follower:
        commit(kafka_settings, windows("gate", 3))
        assert [next(follower) for _ in range(3)] == windows("gate", 3)


def test_the_beginning_holds_all_that_are_kept(kafka_settings: KafkaSettings) -> None:
    commit(kafka_settings, windows("gate", 2))
    with Follower(kafka_settings, from_beginning=True, stopping=lambda: True) as follower:
        assert list(follower) == windows("gate", 2)


def test_an_aborted_transaction_was_never_there(kafka_settings: KafkaSettings) -> None:
    commit(kafka_settings, windows("gate", 3), abort=True)
    commit(kafka_settings, windows("gate", 1))
    with Follower(kafka_settings, "gate", from_beginning=True, stopping=lambda: True) as follower:
        assert list(follower) == windows("gate", 1)


def test_one_stream_of_many(kafka_settings: KafkaSettings) -> None:
    streams = [f"camera-{number}" for number in range(6)]
    commit(kafka_settings, [result for stream in streams for result in windows(stream, 2)])
    with Follower(kafka_settings, "camera-4", from_beginning=True, stopping=lambda: True) as follower:
        assert list(follower) == windows("camera-4", 2)
    with Follower(kafka_settings, from_beginning=True, stopping=lambda: True) as follower:
        assert sorted((result.stream, result.window) for result in follower) == [
            (s, n) for s in streams for n in (0, 1)
        ]


def test_a_stop_gives_out_everything_committed_before_it(kafka_settings: KafkaSettings) -> None:
    """The topic's end is a transaction marker, not a result; partitions without a result do not block it."""
    stopping = threading.Event()
    with Follower(kafka_settings, from_beginning=True, timeout_s=60, stopping=stopping.is_set) as follower:
        commit(kafka_settings, windows("gate", 4))
        stopping.set()
        assert list(follower) == windows("gate", 4)
        assert list(follower) == []


def test_a_foreign_record_is_reported_and_skipped(
    kafka_settings: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    publish_raw(kafka_settings, "results", "gate", b"{}")
    commit(kafka_settings, windows("gate", 1))
    with (
        caplog.at_level(logging.WARNING),
        Follower(kafka_settings, "gate", from_beginning=True, stopping=lambda: True) as follower,
    ):
        assert list(follower) == windows("gate", 1)
    assert "at offset 0: result: schema version None" in caplog.text


def test_without_topics_it_says_what_to_do(kafka_settings: KafkaSettings) -> None:
    elsewhere = replace(kafka_settings, topic_prefix="nothing-here")
    with pytest.raises(KafkaError, match=r"topic nothing-here\.results is missing: run: codecflow topics create"):
        Follower(elsewhere)
