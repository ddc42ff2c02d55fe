"""Topics with missing, repeated, swapped and invalid records: counted, skipped, no crash, and the same after a take-over."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codecflow.keep.config import KeepConfig
from codecflow.messages import NO_BOUND, EndOfEpoch, PictureMetadata
from codecflow.worker.window_plan import WindowPlan

from .memory import Committed, Published, Topics, Worker, publish, publish_two_sizes, slots, undisturbed

PLAN = WindowPlan.of(4, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(2))


def run(topics: Topics, plan: WindowPlan = PLAN) -> tuple[Committed, Worker]:
    committed = Committed()
    worker = Worker(topics, committed, plan, KEEP)
    return committed, worker.run()


def damaged(published: Published, seed: int, rate: float) -> Topics:
    """Some records lost, repeated, swapped with the next, truncated or made unreadable, on either topic."""
    chance = random.Random(seed)
    topics = Topics().add(*published)
    for records in (topics.packets, topics.metadata):
        n = 0
        while n < len(records):
            record = records[n]
            kind = chance.choice(["lost", "repeated", "swapped", "cut", "rubbish"]) if chance.random() < rate else ""
            if kind == "lost":
                del records[n]
                continue
            if kind == "repeated":
                records.insert(n, record)
                n += 1
            elif kind == "swapped" and n + 1 < len(records):
                records[n], records[n + 1] = records[n + 1], record
            elif kind == "cut" and record is not None:
                records[n] = (record[0], record[1][: len(record[1]) // 2], *record[2:])  # type: ignore[call-overload]
            elif kind == "rubbish":
                records[n] = (b"a", b"\x00rubbish", []) if len(record or ()) == 3 else (b"a", b"\x00rubbish")  # type: ignore[call-overload]
            n += 1
    return topics


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([0.01, 0.05, 0.3]),
    deaths=st.lists(st.integers(1, 60), max_size=6),
)
def test_damage_never_crashes_and_a_take_over_sees_it_the_same(
    published: Published, seed: int, rate: float, deaths: list[int]
) -> None:
    topics = damaged(published, seed, rate)
    expected = undisturbed(topics, PLAN, KEEP)
    assert expected.answered.keys() <= {("a", 1, k) for k in range(6)}
    committed = Committed()
    for reads in deaths:
        worker = Worker(topics, committed, PLAN, KEEP)
        worker.read_metadata(reads)
        worker.read_packets(reads)
        worker.transaction()
    Worker(topics, committed, PLAN, KEEP).run()
    assert committed.twice == []
    assert committed.answered == expected.answered


def test_a_lost_picture_costs_the_frames_up_to_the_next_keyframe(published: Published) -> None:
    pictures, documents = published
    committed, worker = run(Topics().add([p for p in pictures if p.seq != 65], documents))
    # Pictures 65 to 79 in decode order; the keyframe at 8 s follows. Slot 13 was shown before, with its B-frames.
    seen = list(slots(committed.answered["a", 1, 3]))
    missing = set(range(8, 16)) - set(slots(committed.answered["a", 1, 3]))
    assert missing
    assert missing <= {13, 14, 15}
    assert seen[:4] == [8, 9, 10, 11]
    assert set(slots(committed.answered["a", 1, 4])) >= {16, 17, 18, 19}
    assert worker.counts["a"]["picture-missing"] == 1
    assert worker.counts["a"]["lost-pictures"] == 79 - 65
    assert len(committed.answered) == 6


def test_a_corrupt_picture_is_never_answered_from(published: Published) -> None:
    pictures, documents = published
    broken = [replace(p, data=p.data[:6] + bytes(reversed(p.data[6:]))) if p.seq == 40 else p for p in pictures]
    committed, worker = run(Topics().add(broken, documents))
    # Picture 40 is a keyframe: two seconds, slots 8 to 11, cannot be decoded, and their window is not answered.
    assert ("a", 1, 2) not in committed.answered
    assert worker.counts["a"]["windows-skipped"] == 1
    assert list(slots(committed.answered["a", 1, 3])) == [12, 13, 14, 15]
    assert worker.counts["a"]["lost-pictures"] == 20


def test_a_lost_document_costs_its_frame_and_the_bound_of_the_next(published: Published) -> None:
    pictures, documents = published
    at = next(n for n, d in enumerate(documents) if isinstance(d, PictureMetadata) and d.signal and d.signal.tick == 5)
    committed, worker = run(Topics().add(pictures, documents[:at] + documents[at + 1 :]))
    assert list(slots(committed.answered["a", 1, 1])) == [0, 1, 2, 3, 4, 6, 7]
    assert worker.counts["a"]["metadata-missing"] == 1
    # Nothing certifies what slot 6 keeps, but pixels are compared: the masks are those of a stream without loss.
    whole, _ = run(Topics().add(pictures, documents))
    assert committed.answered["a", 1, 3] == whole.answered["a", 1, 3]


@settings(max_examples=15, deadline=None)
@given(lost=st.sets(st.integers(0, 23), max_size=12))
def test_lost_signals_never_let_a_change_pass(published: Published, lost: set[int]) -> None:
    """Masks are those of pixels alone: certified tokens never differ from what was last kept."""
    pictures, documents = published
    kept = [d for d in documents if isinstance(d, EndOfEpoch) or d.signal is None or d.signal.tick not in lost]
    blind = [
        replace(d, signal=replace(d.signal, change=np.full_like(d.signal.change, NO_BOUND)))
        if isinstance(d, PictureMetadata) and d.signal is not None
        else d
        for d in kept
    ]
    assert run(Topics().add(pictures, kept))[0].answered == run(Topics().add(pictures, blind))[0].answered


def test_a_stream_that_starts_within_a_gop_begins_at_its_next_keyframe(published: Published) -> None:
    pictures, documents = published
    committed, worker = run(Topics().add(pictures[47:], documents[43:]))
    assert min(committed.answered) == ("a", 1, 3)
    assert list(slots(committed.answered["a", 1, 3])) == [12, 13, 14, 15]
    assert list(slots(committed.answered["a", 1, 4])) == list(range(12, 20))
    assert worker.counts["a"]["windows-skipped"] == 0
    assert worker.counts["a"]["lost-pictures"] == 13


def test_windows_shorter_than_the_stride_leave_the_rest_out(published: Published) -> None:
    committed, _ = run(Topics().add(*published), WindowPlan.of(2, 3, 2))
    assert [list(slots(masks)) for _, masks in sorted(committed.answered.items())] == [
        [2, 3, 4, 5],
        [8, 9, 10, 11],
        [14, 15, 16, 17],
        [20, 21, 22, 23],
    ]
    assert all(len(set(masks[0][1])) == 1 and masks[0][1][0] for masks in committed.answered.values())


def test_a_picture_of_another_size_begins_a_new_mask(tmp_path: Path) -> None:
    pictures, documents = publish_two_sizes(tmp_path, "a")
    committed, worker = run(Topics().add(pictures, documents))
    assert [len(masks) for _, masks in sorted(committed.answered.items())] == [4, 8, 8, 8, 8]
    masks = dict(committed.answered["a", 1, 2])
    assert all(masks[10])
    assert not all(masks[11])
    assert worker.counts["a"]["lost-pictures"] == 0


def test_a_signal_that_cannot_serve_the_rate_is_an_error_of_its_stream(short_clip: Path, published: Published) -> None:
    bad = publish(short_clip, "gate", interval=Fraction(3, 4))
    committed, worker = run(Topics().add(*bad).add(*published))
    assert committed.answered.items() >= undisturbed(Topics().add(*published), PLAN, KEEP).answered.items()
    windows = [window for window in worker.windows if window.stream == "gate"]
    assert [window.index for window in windows] == list(range(6))
    assert {window.frames for window in windows} == {()}
    errors = {window.error for window in windows}
    assert len(errors) == 1
    error = errors.pop()
    assert error is not None
    assert error.code == "signal-interval"
    assert error.text.startswith("stream gate: its signal comes every 0.75 s and cannot serve 2 frames/s")
    assert [line for line in worker.said if "gate" in line] == [error.text]


def test_unreadable_and_misplaced_records_become_dead_letters_by_their_coordinates(published: Published) -> None:
    topics = Topics().add(*published)
    topics.packets.insert(10, (b"a", b"", []))
    topics.metadata.insert(20, (b"a", b'{"v": 99}'))
    topics.metadata.insert(30, (b"", b"{}"))
    committed, worker = run(topics)
    assert [
        (x.topic, x.partition, x.offset, x.stream, x.code) for x in sorted(worker.dead, key=lambda x: x.offset)
    ] == [
        ("packets", 0, 10, "a", "unreadable"),
        ("metadata", 0, 20, "a", "unreadable"),
        ("metadata", 0, 30, "", "unreadable"),
    ]
    assert "schema version 99" in next(x.reason for x in worker.dead if x.offset == 20)
    assert committed.answered == undisturbed(Topics().add(*published), PLAN, KEEP).answered
