"""Batches contain what the banks contain, with the same transform for everything of a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from codecflow.vlm.tiny.components import byte_tokenizer

IMAGE = "<IMG_CONTEXT>"


@pytest.fixture(scope="module")
def banks() -> tuple[Any, Any]:
    """(scenes, real): two clips of each length. Left halves of frames are kept, and the first frame completely; each token's
    pixels and cover are its column number. A person is in view in every other frame."""
    from bank import CHANNELS, Bank, nothing_known

    lengths = [1, 1, 4, 4, 16, 16, 80, 80]
    n = sum(lengths)
    columns = np.arange(8, dtype=np.uint8)
    frames = np.broadcast_to(columns.repeat(28), (n, 3, 224, 224))
    cover = np.broadcast_to(columns, (n, CHANNELS, 8, 8))
    keep = np.broadcast_to(columns < 4, (n, 8, 8)).reshape(n, 64).copy()
    starts = np.cumsum([0, *lengths[:-1]])
    keep[starts] = True
    facts = nothing_known(n)
    facts["known"][:] = facts["complete"][:] = True
    facts["seen"][::2, 0] = 1
    facts["moving"][:] = 0

    def bank(real: bool) -> Any:
        clips = [
            {"name": f"clip-{i}", "start": int(start), "length": length, "real": real}
            for i, (start, length) in enumerate(zip(starts, lengths, strict=True))
        ]
        return Bank(frames, keep, cover, facts, clips)

    return bank(False), bank(True)


@pytest.fixture(scope="module")
def layout() -> Any:
    from layout import Layout

    tokenizer = byte_tokenizer([IMAGE], "")
    return Layout(tokenizer, tokenizer.convert_tokens_to_ids(IMAGE))


def test_every_mode_asks_about_the_frames_that_it_shows(banks: tuple[Any, Any], layout: Any) -> None:
    from batches import MODES, Batches

    batches = Batches([banks[0]], banks[1], layout, seed=0, parts=1, share_real=0.3, share_cropped=0.0, scale=0.05)
    for mode in MODES:
        for number in range(3):
            draft = batches.draw(mode, np.random.default_rng(number))
            asked = draft.batch.question[draft.batch.question >= 0].tolist()
            assert asked == list(range(len(draft.names))), mode.name
            kept = int((draft.batch.ids == layout.image_id).sum())
            assert kept == draft.keep.sum() == len(draft.cover), mode.name
            assert len(draft.frames) == len(draft.keep)
            assert draft.keep.all() != mode.pruned or mode.frames == 1
            assert set(draft.names) <= {"person", "vehicle", "animal", "bag", "count", "moving", "where", "caption"}
            assert "person" in draft.names or "vehicle" in draft.names


def test_pixels_masks_and_cover_are_mirrored_together(banks: tuple[Any, Any], layout: Any) -> None:
    from batches import MODES, Batches

    batches = Batches([banks[0]], None, layout, seed=0, parts=1, share_lit=0.0, scale=0.05)
    (mode,) = (mode for mode in MODES if mode.name == "window-pruned")
    mirrored = set()
    for number in range(6):
        draft = batches.draw(mode, np.random.default_rng(number))
        at, token = np.nonzero(draft.keep)
        rows, columns = token // 8 * 28, token % 8 * 28
        np.testing.assert_array_equal(draft.frames[at, 0, rows, columns], draft.cover[:, 0])
        pruned = ~draft.keep.all(1)[at]
        assert int(draft.cover[torch.from_numpy(pruned), 0].max()) == 3  # of the left halves, after any transform
        mirrored |= set((draft.frames[:, 0, 0, 0] == 7).tolist())
    assert mirrored == {True, False}


def test_a_batch_is_the_same_each_time_and_begins_with_what_things_look_like(
    banks: tuple[Any, Any], layout: Any
) -> None:
    from batches import MODES, Batches

    one, other = (Batches([banks[0]] * 2, banks[1], layout, seed=3, parts=2, early=10, scale=0.02) for _ in range(2))
    for number in (0, 7, 25):
        a, b = one[number], other[number]
        assert (a.mode, a.names) == (b.mode, b.names)
        assert torch.equal(a.batch.ids, b.batch.ids)
        assert torch.equal(a.frames, b.frames)
    assert one[6].mode == one[7].mode
    assert not torch.equal(one[6].batch.ids, one[7].batch.ids)  # both of one step
    first = {mode.name for mode in MODES if mode.first}
    assert {one[number].mode for number in range(20)} == first
    assert {one[number].mode for number in range(20, 60)} > first
