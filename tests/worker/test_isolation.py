"""A problem in one stream affects only that stream: it gets errors, and its neighbour gets the same answers as without
it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from codecflow.errors import ModelError
from codecflow.grid import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.messages import CodedPicture, DeadLetter, EndOfEpoch, PictureMetadata
from codecflow.worker import sampler as sampling
from codecflow.worker.window_plan import WindowPlan
from codecflow.worker.windows import Window

from .memory import Committed, Published, Topics, Worker, encode_clip, publish, slots, undisturbed
from .picture_inputs import BAD_SIZE, Pixels

Documents = list[PictureMetadata | EndOfEpoch]

PLAN = WindowPlan.of(4, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(2))


def run(topics: Topics, published: Published) -> tuple[Worker, list[Window]]:
    """The worker, and the windows of the bad stream. The good one is answered as if it were alone."""
    committed = Committed()
    worker = Worker(topics, committed, PLAN, KEEP).run()
    expected = undisturbed(Topics().add(*published), PLAN, KEEP).answered
    assert {key: masks for key, masks in committed.answered.items() if key[0] == "a"} == expected
    assert worker.partition.settled
    return worker, [window for window in worker.windows if window.stream == "bad"]


def is_bad(rgb: Pixels) -> bool:
    return rgb.shape[:2] == BAD_SIZE[::-1]


def patch_sampling(monkeypatch: pytest.MonkeyPatch, **how: Callable[..., object] | int) -> None:
    """The tests' workers sample with these functions instead of their own."""
    own = sampling.Sampling

    def patched(*arguments: object) -> sampling.Sampling:
        return replace(own(*arguments), **how)  # type: ignore[arg-type]

    monkeypatch.setattr("tests.worker.memory.Sampling", patched)


def test_an_exception_sets_the_stream_aside_with_backoff_and_names_the_record(
    beside: Topics, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def patches_of(rgb: Pixels, keep: npt.NDArray[np.bool_]) -> Pixels:
        if is_bad(rgb):
            tried.append(1)
            raise ValueError("a model that\ndoes not like this picture")
        return rgb

    patch_sampling(monkeypatch, patches_of=patches_of)
    worker, windows = run(beside, published)
    # Tried at 0 s, then after 1, 2, 4 and 8 s, at the keyframe that follows.
    assert 4 <= len(tried) <= 5
    assert {window.error.code for window in windows if window.error} == {"failed"}
    assert len([window for window in windows if window.error]) >= 8
    assert all(window.frames == () for window in windows)
    letters = [letter for letter in worker.dead if letter.stream == "bad"]
    assert len(letters) == len(tried)
    assert {letter.code for letter in letters} == {"failed"}
    assert letters[0].reason == "ValueError: a model that"
    for letter in letters:
        record = beside.packets[letter.offset]
        assert record is not None
        assert record[0] == b"bad"
    aside = [event for event in worker.committed.events if event.kind == "set-aside"]
    assert [(event.stream, event.change) for event in aside] == [("bad", "opened")]
    assert aside[0].reason == windows[0].error.text  # type: ignore[union-attr]
    lines = [line for line in worker.said if "bad" in line]
    assert lines == ["stream 'bad': its pictures cannot be processed: ValueError: a model that"]


def test_a_stream_that_failed_once_is_answered_again_from_an_anchor(
    beside: Topics, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[int] = []

    def patches_of(rgb: Pixels, keep: npt.NDArray[np.bool_]) -> Pixels:
        if is_bad(rgb) and not failed:
            failed.append(1)
            raise MemoryError
        return rgb

    patch_sampling(monkeypatch, patches_of=patches_of)
    worker, windows = run(beside, published)
    answered = [window for window in windows if window.error is None]
    assert [window.index for window in answered] == list(range(answered[0].index, 10))
    assert answered[0].frames[0].anchor
    assert answered[0].frames[0].keep.all()
    assert [line.split(":")[0] for line in worker.said] == ["stream 'bad'", "stream 'bad'"]
    assert worker.said[1] == "stream 'bad': its pictures can be used again"


def test_a_picture_size_that_the_model_does_not_take(
    beside: Topics, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grid_of(width: int, height: int) -> TokenGrid:
        if (width, height) == BAD_SIZE:
            raise ModelError(f"pictures of {width}x{height} are too narrow for this model")
        return TokenGrid.regular(6, 8, width, height)

    patch_sampling(monkeypatch, grid_of=grid_of)
    worker, windows = run(beside, published)
    assert [window.index for window in windows] == list(range(10))
    assert {window.error and window.error.code for window in windows} == {"picture-size"}
    assert not worker.dead


def test_pictures_beyond_the_limit_are_not_decoded(
    beside: Topics, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_sampling(monkeypatch, max_pixels=10_000)
    worker, windows = run(beside, published)
    assert {window.error and window.error.code for window in windows} == {"picture-size"}
    assert worker.counts["bad"]["pictures-decoded"] == 0


def test_a_camera_without_keyframes_says_so(published: Published, tmp_path: Path) -> None:
    """The stream is joined within a GOP of an hour."""
    pictures, documents = publish(encode_clip(tmp_path / "long.mp4", 40, fps=5, gop=10_000), "bad")
    at = [replace(picture, captured_at_ms=int(picture.pts * picture.time_base * 1000)) for picture in pictures]
    topics = Topics().add(at[9:], documents[5:]).add(*published)
    worker, windows = run(topics, published)
    assert {window.error and window.error.code for window in windows} == {"no-keyframe"}
    lines = [line for line in worker.said if "no keyframe for 30 s" in line]
    assert len(lines) == 1
    assert "keyframe interval" in lines[0]


def mislabelled(pictures: list[CodedPicture], documents: Documents) -> Published:
    return [replace(picture, codec="hevc") for picture in pictures], documents


def of_another_size(pictures: list[CodedPicture], documents: Documents) -> Published:
    return [replace(picture, width=8192, height=8192) for picture in pictures], documents


def of_another_clock(pictures: list[CodedPicture], documents: Documents) -> Published:
    return [replace(picture, time_base=picture.time_base * 2) for picture in pictures], documents


def without_signals(pictures: list[CodedPicture], documents: Documents) -> Published:
    return pictures, [replace(one, signal=None) if isinstance(one, PictureMetadata) else one for one in documents]


@pytest.mark.parametrize(
    ("change", "code", "seconds"),
    [
        (mislabelled, "undecodable", 40),
        (of_another_size, "undecodable", 40),
        (of_another_clock, "mismatch", 40),
        (without_signals, "no-signal", 170),
    ],
)
def test_a_stream_that_gives_no_frames_says_why(
    change: Callable[[list[CodedPicture], Documents], Published],
    code: str,
    seconds: int,
    published: Published,
    tmp_path: Path,
) -> None:
    pictures, documents = change(*publish(encode_clip(tmp_path / "bad.mp4", seconds, fps=2, gop=4), "bad"))
    worker, windows = run(Topics().add(pictures, documents).add(*published), published)
    assert {window.error and window.error.code for window in windows} == {code}
    (line,) = [line for line in worker.said if "'bad'" in line]
    assert "see what its camera sends, and restart its producer" in line


def test_an_epoch_of_the_far_future_is_refused_and_others_go_on(published: Published) -> None:
    now = 1_700_000_000_000
    pictures, documents = published
    good = [replace(picture, epoch=now) for picture in pictures], [replace(one, epoch=now) for one in documents]
    century = now + 100 * 365 * 86_400_000 // 50
    stray = [replace(pictures[0], epoch=century)], [replace(documents[0], epoch=century)]
    committed = Committed()
    worker = Worker(Topics().add(*stray).add(*good), committed, PLAN, KEEP, wall_ms=lambda: now + 60_000).run()
    assert {key[1] for key in committed.answered} == {now}
    assert len(committed.answered) == 6
    assert {(letter.code, letter.offset) for letter in worker.dead} == {("future-epoch", 0)}
    lines = [line for line in worker.said if "days ahead of the broker's clock" in line]
    assert len(lines) == 1
    assert lines[0].startswith("stream 'a': 1 records ignored")


def test_times_that_cannot_be_true(published: Published) -> None:
    """A packet whose time differs from its metadata's is lost. If both claim that years went by, nothing more of the epoch
    is answered: this is reported, and the number of windows counted as left out is bounded. The next epoch is answered."""
    pictures, documents = published
    far = 60 * 365 * 86_400 * pictures[0].time_base.denominator
    wrong = [replace(one, pts=2**62) if one.seq % 10 == 5 else one for one in pictures]
    unpaired = [None if n % 10 == 5 else one for n, one in enumerate(documents)]
    topics = Topics().add(wrong, documents)
    worker = Worker(topics, Committed(), PLAN, KEEP).run()
    assert len(worker.committed.answered) == 6
    assert worker.counts["a"]["windows-skipped"] == 0
    topics = Topics().add(wrong, [one for one in unpaired if one is not None])
    worker = Worker(topics, Committed(), PLAN, KEEP).run()
    assert len(worker.committed.answered) == 6
    assert worker.counts["a"]["windows-skipped"] == 0

    ahead = [replace(one, pts=one.pts + far) if 50 <= one.seq < 53 else one for one in pictures]
    known = [replace(one, pts=one.pts + far) if 50 <= getattr(one, "seq", 0) < 53 else one for one in documents]
    later = [replace(one, epoch=2) for one in pictures], [replace(one, epoch=2) for one in documents]
    worker = Worker(Topics().add(ahead, known).add(*later), Committed(), PLAN, KEEP).run()
    assert {k for _, epoch, k in worker.committed.answered if epoch == 2} == set(range(6))
    assert worker.counts["a"]["windows-skipped"] <= 86_400
    (line,) = [line for line in worker.said if "s older than what was answered" in line]
    assert line.startswith("stream 'a': its pictures are 18921")
    assert "restart its producer" in line


def test_two_producers_are_reported_with_figures_once_per_minute(published: Published) -> None:
    now = [0.0]
    pictures, documents = published
    later = [replace(picture, epoch=2) for picture in pictures], [replace(one, epoch=2) for one in documents]
    worker = Worker(
        Topics().add(later[0][:10], later[1][:10]).add(pictures, documents[:-1]).add(later[0][10:], later[1][10:]),
        Committed(),
        PLAN,
        KEEP,
        clock=lambda: now[0],
    )
    worker.read_packets(40)
    worker.partition.expire()
    worker.read_packets(40)
    worker.partition.expire()
    assert len(worker.said) == 1
    assert worker.said[0].startswith(
        "stream 'a': 30 records ignored, of an earlier epoch than 2: two producers at once"
    )
    now[0] = 61.0
    worker.partition.expire()
    assert worker.said[1].startswith("stream 'a': 40 records ignored")
    worker.run()
    assert {epoch for _, epoch, _ in worker.committed.answered} == {2}


def test_a_record_whose_handling_fails_is_a_dead_letter(published: Published) -> None:
    worker = Worker(Topics().add(*published), Committed(), PLAN, KEEP)
    worker.partition.failed(0, b"a", 0, "RuntimeError: unforeseen")
    assert worker.partition.positions == (1, 0)
    assert worker.dead == [DeadLetter("packets", 0, 0, "a", "failed", "RuntimeError: unforeseen")]


def test_a_slow_camera_misses_no_frames(tmp_path: Path) -> None:
    """One picture per second at 2 frames/s."""
    pictures, documents = publish(encode_clip(tmp_path / "slow.mp4", 40, fps=1, gop=4), "slow")
    committed = Committed()
    worker = Worker(Topics().add(pictures, documents), committed, WindowPlan.of(8, 4, 2), KEEP).run()
    expected = {window.index: window.expected for window in worker.windows}
    assert expected == {0: 4, **dict.fromkeys(range(1, 9), 8)}  # the tenth would end after the last picture
    assert all(len(list(slots(masks))) == expected[k] for (_, _, k), masks in committed.answered.items())


def test_a_lost_picture_is_missing_from_its_window(published: Published) -> None:
    pictures, documents = published
    worker = Worker(
        Topics().add([p for p in pictures if not 40 <= p.seq < 60], list(documents[:40] + documents[60:])),
        Committed(),
        PLAN,
        KEEP,
    ).run()
    assert {window.index: window.expected for window in worker.windows} == {0: 4, 1: 8, 3: 8, 4: 8, 5: 8}


@pytest.mark.parametrize("count", [0, 2**53 - 1])
def test_a_forged_end_of_an_epoch_costs_what_is_left_of_its_gop(published: Published, count: int) -> None:
    """Anybody with write access to the topic can write one."""
    pictures, documents = published
    forged = [*documents[:60], EndOfEpoch("a", 1, count), *documents[60:]]
    topics = Topics()
    for n in range(0, 130, 10):  # packets come before metadata, as from a camera
        topics.add(pictures[n : n + 10], forged[max(0, n - 10) : n])
    topics.add([], forged[120:])
    committed = Committed()
    worker = Worker(topics, committed, PLAN, KEEP).run()
    assert {window for _, _, window in committed.answered} >= {0, 1, 2, 5}
    assert not committed.twice
    assert worker.partition.settled
    worker.partition.expire()
    assert [(letter.code, letter.offset) for letter in worker.dead] == [("false-end", 60)]
    assert "1 ends of its epoch are ignored" in worker.said[0]
    # A worker that takes over after the end was committed continues as well.
    committed = Committed()
    first = Worker(topics, committed, PLAN, KEEP)
    first.read_packets(70)
    first.read_metadata(61)
    while not first.idle or first.ready:
        first.transaction()
    assert committed.states["a"].ended
    Worker(topics, committed, PLAN, KEEP).run()
    assert {window for _, _, window in committed.answered} >= {0, 1, 2, 5}
    assert not committed.twice
