"""The join of packets and metadata: decisions depend on each topic alone, never on how they were interleaved."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from codecflow.messages import CodedPicture, EndOfEpoch, PictureMetadata
from codecflow.worker.join import EpochEnd, Joined, StreamJoin

Key = tuple[int, int]
BASE = Fraction(1, 10)


def packet(key: Key) -> CodedPicture:
    return CodedPicture("s", *key, b"data", "h264", key[1] % 10 == 0, key[1], None, 1, BASE, 0, 64, 48)


def document(key: Key) -> PictureMetadata:
    return PictureMetadata("s", *key, key[1], 0, BASE, "h264", "P", 4)


class Merged:
    """A join and its output. Offsets are positions in the two lists."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.join = StreamJoin(self.counts)
        self.events: list[Joined | EpochEnd] = []

    def packet(self, key: Key, offset: int = 0) -> None:
        self.join.add_packet(packet(key), offset)
        self.events += self.join.take()

    def metadata(self, record: Key | EndOfEpoch, offset: int = 0) -> None:
        self.join.add_metadata(record if isinstance(record, EndOfEpoch) else document(record), offset)
        self.events += self.join.take()

    def outcomes(self) -> list[tuple[int, int, bool, bool] | tuple[int, bool]]:
        return [
            (e.epoch, e.closed)
            if isinstance(e, EpochEnd)
            else (e.epoch, e.seq, e.picture is not None, e.metadata is not None)
            for e in self.events
        ]


def merge(packets: list[Key], documents: list[Key | EndOfEpoch], order: list[bool]) -> Merged:
    """`order`: True takes the next packet, False the next document; the rest comes at the end."""
    merged = Merged()
    p = m = 0
    for first in [*order, *[True] * len(packets), *[False] * len(documents)]:
        if first and p < len(packets):
            merged.packet(packets[p], p)
            p += 1
        elif not first and m < len(documents):
            merged.metadata(documents[m], m)
            m += 1
    return merged


keys = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 12)), max_size=40)
mostly_sorted = st.lists(st.tuples(st.integers(1, 2), st.integers(0, 30)), max_size=40).map(sorted)
orders = st.lists(st.booleans(), max_size=80)


@given(keys | mostly_sorted, keys | mostly_sorted, orders, orders, st.booleans())
def test_the_outcome_does_not_depend_on_the_interleaving(
    packets: list[Key], documents: list[Key], order: list[bool], other: list[bool], ended: bool
) -> None:
    ends: list[EndOfEpoch] = [EndOfEpoch("s", 3, 13)] if ended else []
    one, two = merge(packets, [*documents, *ends], order), merge(packets, [*documents, *ends], other)
    assert one.outcomes() == two.outcomes()
    assert one.counts == two.counts


@given(keys | mostly_sorted, keys | mostly_sorted, orders)
def test_what_comes_out_is_in_order_once_and_true(packets: list[Key], documents: list[Key], order: list[bool]) -> None:
    merged = merge(packets, list(documents), order)
    joined = [event for event in merged.events if isinstance(event, Joined)]
    assert [(e.epoch, e.seq) for e in joined] == sorted({(e.epoch, e.seq) for e in joined})
    for event in joined:
        key = (event.epoch, event.seq)
        assert event.picture is not None or event.metadata is not None
        if event.picture is not None:
            assert packets[event.packets_offset] == key
        if event.metadata is not None:
            assert documents[event.metadata_offset] == key
        else:
            assert documents[event.metadata_offset] > key


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), orders)
def test_losses_are_counted_and_leave_the_other_half(lost: set[int], untold: set[int], order: list[bool]) -> None:
    """The first picture has both halves, since nothing before it can be missing, and an end states the number of
    pictures."""
    lost, untold = {n + 1 for n in lost}, {n + 1 for n in untold}
    packets = [(1, n) for n in range(40) if n not in lost]
    documents: list[Key | EndOfEpoch] = [(1, n) for n in range(40) if n not in untold]
    merged = merge(packets, [*documents, EndOfEpoch("s", 1, 40)], order)
    assert merged.outcomes() == [
        *((1, n, n not in lost, n not in untold) for n in range(40) if n not in lost & untold),
        (1, True),
    ]
    assert merged.counts["picture-missing"] == len(lost)
    assert merged.counts["metadata-missing"] == len(untold - lost)


def test_a_duplicate_a_late_and_an_earlier_picture_are_distinguished() -> None:
    merged = Merged()
    for key in [(1, 0), (1, 0), (1, 2), (1, 1), (2, 0), (1, 3)]:
        merged.packet(key)
    assert merged.counts == {"duplicate": 1, "late": 1, "earlier-epoch": 1}
    assert (merged.join.earlier_epochs, merged.join.newest_epoch) == (1, 2)


def test_the_later_epoch_wins_and_what_the_earlier_had_open_is_left() -> None:
    merged = merge([(1, 0), (1, 1), (2, 0), (1, 2)], [(1, 0), (2, 0), (1, 1), (1, 2)], [])
    assert merged.outcomes() == [(1, 0, True, True), (1, False), (2, 0, True, True)]
    assert merged.counts == {"no-partner": 1, "earlier-epoch": 3, "picture-missing": 0, "metadata-missing": 0}


def test_what_waits_too_long_is_given_up_and_an_end_among_it_still_counts() -> None:
    merged = Merged()
    merged.packet((1, 0))
    merged.metadata((1, 0))
    merged.metadata((1, 1))
    merged.metadata(EndOfEpoch("s", 1, 2))
    assert merged.outcomes() == [(1, 0, True, True)]
    merged.events += merged.join.give_up()
    merged.packet((1, 1))
    assert merged.outcomes()[1:] == [(1, 1, False, True), (1, True)]
    assert merged.counts == {"picture-missing": 1, "metadata-missing": 0, "no-partner": 1}
    assert (merged.join.packets_waiting, merged.join.metadata_waiting, merged.join.bytes_waiting) == (0, 0, 0)


@given(st.integers(0, 60), st.sampled_from([0, 1, 20, 21, 40, 2**53 - 1]), orders)
def test_an_end_that_was_none_is_ignored(at: int, pictures: int, order: list[bool]) -> None:
    """Packets read before the metadata continued may be lost to the false end, if it says that there are none."""
    packets = [(1, n) for n in range(60)]
    documents: list[Key | EndOfEpoch] = [(1, n) for n in range(60)]
    at = min(at, 58)
    documents.insert(at, EndOfEpoch("s", 1, pictures))
    merged = merge(packets, [*documents, EndOfEpoch("s", 1, 60)], order)
    merged.events += merged.join.give_up()
    outcomes = merged.outcomes()
    assert outcomes[-1] == (1, True)
    assert [one[1] for one in outcomes if len(one) == 4 and one[3]] == list(range(60))
    assert merged.counts["false-end"] == 1
    assert merged.join.false_ends == [(1, at)]
    assert not merged.join.packets_waiting
    assert 0 <= merged.counts["picture-missing"] <= 60


def test_an_end_of_an_epoch_that_nobody_has_seen_ends_nothing() -> None:
    documents: list[Key | EndOfEpoch] = [(1, 0), EndOfEpoch("s", 2, 0), (1, 1), EndOfEpoch("s", 1, 2)]
    merged = merge([(1, 0), (1, 1)], documents, [])
    assert merged.outcomes() == [(1, 0, True, True), (1, 1, True, True), (1, True)]
    assert merged.counts["false-end"] == 1
    alone = merge([], [EndOfEpoch("s", 2, 0)], [])
    assert alone.outcomes() == [(2, True)]
