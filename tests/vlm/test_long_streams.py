"""Windows of 40 s at codecflow-tiny's input size, within its text model's position limit, after days of a stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codecflow.messages import Question
from codecflow.vlm.engine import Engine
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny
from codecflow.vlm.work import Frame, StreamWork

QUESTION = Question("q", "Is someone there?", "yes-no")
WINDOW, STRIDE = 80, 16
BEGIN = 5 * 24 * 3600 * 2 + 960  # slot on the sixth day at 2 frames/s; frame numbers restart within the window


def test_80_frames_of_64_tokens_slide_on_within_8192_positions(tmp_path: Path) -> None:
    """Every token is kept: no window is larger. Positions are rebased repeatedly without changing the answers."""
    folder = make_tiny(tmp_path / "model", hidden=16, layers=1, vision_hidden=16, image_size=224)
    family = load_model(str(folder), "float32", "cpu")
    assert family.grid(640, 360).tokens == 64
    rebasing, free = (Engine(family, position_limit=limit) for limit in (8192, None))
    rng = np.random.default_rng(0)
    rebased, before = 0, 0
    for end in range(BEGIN + WINDOW, BEGIN + WINDOW + 8 * STRIDE, STRIDE):
        new = range(end - STRIDE if before else BEGIN, end)
        whole = np.ones(64, bool)
        pictures = [rng.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in new]
        patches = [family.input.patches(picture, whole) for picture in pictures]
        frames = [Frame(i, i / 2, whole, own, (160, 90)) for i, own in zip(new, patches, strict=True)]
        work = [StreamWork("camera", frames, end - WINDOW, [QUESTION])]
        (outcome,), (expected,) = rebasing.step(work), free.step(work)
        assert outcome.frames_seen == WINDOW
        assert outcome.answers[0].p_yes == pytest.approx(expected.answers[0].p_yes, abs=1e-5)
        window = rebasing.windows["camera"]
        assert len(window.live) == WINDOW
        assert window.position <= 8192
        rebased += window.position < before
        before = window.position
    assert rebased >= 2
    assert free.windows["camera"].position > 8192
