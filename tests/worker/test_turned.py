"""A worker's frames of rotated and mirrored sources are upright, and tokens are kept where the shown picture changes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codecflow.grid import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.orientation import ORIENTATIONS
from codecflow.vlm.work import Frame
from codecflow.worker.window_plan import WindowPlan
from tests.codec.clips import scene
from tests.codec.turned import COLUMNS, MATRICES, ROWS, changed, exif_clip, matrix_clip

from .memory import Committed, Topics, Worker, publish

PLAN = WindowPlan.of(4, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(60))


def frames(clip: Path, keep: KeepConfig = KEEP) -> list[Frame]:
    """The worker's sampled frames of a clip, each once."""
    topics = Topics().add(*publish(clip, "gate"))
    worker = Worker(topics, Committed(), PLAN, keep, grid=lambda w, h: TokenGrid.regular(ROWS, COLUMNS, w, h)).run()
    found = {frame.index: frame for window in worker.windows for frame in window.frames}
    return [frame for _, frame in sorted(found.items())]


def assert_upright(frame: Frame) -> None:
    assert frame.size == (96, 64)
    if frame.patches is not None:
        picture = frame.patches.astype(int)
        assert np.abs(picture - scene(5 * frame.index, 96, 64)).mean() < 12


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_frames_and_masks_are_upright(orientation: int, tmp_path: Path) -> None:
    sampled = frames(matrix_clip(tmp_path / "clip", MATRICES[orientation], orientation, pictures=40))
    assert [frame.index for frame in sampled] == list(range(8))
    for frame in sampled:
        assert_upright(frame)
        assert frame.anchor == (frame.index == 0)
        if frame.index:
            assert frame.keep[changed(5 * frame.index)].all()
    assert sum(int((~frame.keep).sum()) for frame in sampled) > 7 * ROWS * COLUMNS / 3, "and not all of it is kept"


def test_a_camera_that_is_turned_while_it_plays(tmp_path: Path) -> None:
    """As with a change of size: the first frame with another orientation is kept whole."""
    turned = [6] * 12 + [8] * 10 + [None] * 8 + [5] * 10
    sampled = frames(exif_clip(tmp_path / "clip", turned))
    assert len(sampled) == 8
    for frame in sampled:
        assert_upright(frame)
    ways = [turned[5 * frame.index] for frame in sampled]
    first = [index for index in range(8) if index == 0 or ways[index] != ways[index - 1]]
    assert [frame.index for frame in sampled if frame.keep.all()] == first
