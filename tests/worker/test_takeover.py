"""Every window exactly once, with the same masks, wherever workers die: real pictures and masks, topics in memory."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecflow.keep.config import KeepConfig
from codecflow.messages import decode_packet
from codecflow.worker.window_plan import WindowPlan

from .memory import Committed, Topics, Worker, encode_clip, publish, slots, undisturbed

PLAN = WindowPlan.of(4, 2, 2)
KEEPS = [
    KeepConfig("replenish", period_s=Fraction(4)),
    KeepConfig("replenish", coverage="rolling", period_s=Fraction(4)),
    KeepConfig("replenish", coverage="background", period_s=Fraction(6), slack_s=Fraction(1)),
    KeepConfig("motion", period_s=Fraction(4)),
    KeepConfig("all", period_s=Fraction(4)),
]


@pytest.fixture(scope="module")
def two_streams(tmp_path_factory: pytest.TempPathFactory) -> Topics:
    """Two streams in one partition, interleaved by thirds; one starts a second epoch before the first has ended."""
    folder = tmp_path_factory.mktemp("clips")
    long = encode_clip(folder / "long.mp4", 15)
    short = encode_clip(folder / "short.mp4", 9, gop=30)
    a, b1, b2 = publish(long, "a"), publish(short, "b", 1), publish(short, "b", 2)
    topics = Topics()
    third, half = len(a[0]) // 3, len(b2[0]) // 2
    topics.add(a[0][:third], a[1][:third]).add(b1[0][:60], b1[1][:60])
    topics.add(a[0][third : 2 * third], a[1][third : 2 * third]).add(b2[0][:half], b2[1][:half])
    return topics.add(a[0][2 * third :], a[1][2 * third :]).add(b2[0][half:], b2[1][half:])


@pytest.fixture(scope="module", params=KEEPS, ids=lambda keep: f"{keep.policy}-{keep.coverage}")
def keep(request: pytest.FixtureRequest) -> KeepConfig:
    return cast(KeepConfig, request.param)


@pytest.fixture(scope="module")
def expected(two_streams: Topics, keep: KeepConfig) -> Committed:
    found = undisturbed(two_streams, PLAN, keep)
    assert len(found.answered) == 7 + 3 + 4
    return found


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["packets", "metadata", "both", "sample", "take", "submit", "commit", "transaction", "die"]),
        st.integers(1, 60),
    ),
    max_size=60,
)


@settings(max_examples=15, deadline=None)
@given(actions=ACTIONS)
def test_every_window_once_with_the_same_masks_wherever_workers_die(
    two_streams: Topics, keep: KeepConfig, expected: Committed, actions: list[tuple[str, int]]
) -> None:
    """Records wait in the join, for a sampler, in the engine and in a transaction when a worker dies."""
    committed = Committed()
    worker = Worker(two_streams, committed, PLAN, keep)
    worker.hold_samplers()
    for action, count in actions:
        match action:
            case "packets":
                worker.read_packets(count)
            case "metadata":
                worker.read_metadata(count)
            case "both":
                worker.read_packets(count)
                worker.read_metadata(count)
            case "die":
                worker = Worker(two_streams, committed, PLAN, keep)
                worker.hold_samplers()
            case _:
                getattr(worker, action)()
    worker.run()
    assert committed.twice == []
    assert committed.answered.keys() == expected.answered.keys()
    for window, masks in expected.answered.items():
        assert list(slots(committed.answered[window])) == list(slots(masks)), window
        assert committed.answered[window] == masks, window
    assert all(state.ended for state in committed.states.values())
    for stream in "ab":
        of_stream = [event for event in committed.events if event.stream == stream]
        assert of_stream == [event for event in expected.events if event.stream == stream]
        assert {event.change for event in of_stream} == {"opened", "closed"}


def test_a_worker_that_dies_after_every_transaction_gets_there(two_streams: Topics) -> None:
    committed, lives, done = Committed(), 0, False
    while not done:
        worker = Worker(two_streams, committed, PLAN, KEEPS[0])
        while not worker.at_end and not worker.ready:
            worker.read_packets()
            worker.read_metadata()
        done = worker.at_end and not worker.ready
        worker.transaction()
        lives += 1
    assert lives >= 14
    assert committed.twice == []
    assert committed.answered == undisturbed(two_streams, PLAN, KEEPS[0]).answered


def test_a_take_over_begins_at_the_keyframe_that_the_oldest_open_window_needs(two_streams: Topics) -> None:
    keep = KEEPS[0]
    committed = Committed()
    first = Worker(two_streams, committed, PLAN, keep)
    while not any(answered[:3] == ("a", 1, 5) for answered in committed.answered):
        first.read_packets(3)
        first.read_metadata(3)
        first.transaction()
    state = committed.states["a"]
    # Window 6 begins at 10 s and masks remember 4 s: the keyframe at 6 s, with a GOP of one second.
    record = two_streams.packets[state.packets_offset]
    assert record is not None
    keyframe = decode_packet(*record)
    assert (keyframe.stream, keyframe.keyframe, keyframe.pts * keyframe.time_base) == ("a", True, 6)
    before = set(committed.answered)
    Worker(two_streams, committed, PLAN, keep).run()
    assert committed.twice == []
    assert {w for w in committed.answered if w[0] == "a"} - before == {("a", 1, 6)}
    assert ("a", 1, 6) in committed.rebuilt
    assert not committed.rebuilt & before


def test_offsets_never_move_back_and_end_behind_the_last_record(two_streams: Topics) -> None:
    committed = Committed()
    worker = Worker(two_streams, committed, PLAN, KEEPS[0])
    seen = [(0, 0)]
    while not worker.at_end:
        worker.read_packets(2)
        worker.read_metadata(2)
        worker.transaction()
        seen.append(committed.offsets)
    worker.run()
    packets, metadata = zip(*seen, committed.offsets, strict=True)
    assert list(packets) == sorted(packets)
    assert list(metadata) == sorted(metadata)
    assert committed.offsets == (len(two_streams.packets), len(two_streams.metadata))
    assert worker.partition.settled
