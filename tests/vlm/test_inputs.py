"""A model's input without the model: a small value that can be sent to another process and behaves the same there."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

from codecflow.errors import ModelError
from codecflow.vlm.inputs import ShapedInput
from codecflow.vlm.preprocessing import Preprocessing

from .cases import Case

PREPROCESS = Preprocessing.of({})


def test_a_picture_keeps_its_shape_by_the_familys_own_rule() -> None:
    rng = np.random.default_rng(3)
    shaped = ShapedInput(PREPROCESS, 32, 2, 80, 2**17, 768 * 2**10)
    for _ in range(2000):
        width, height = (int(2 ** rng.uniform(3, 13)) for _ in range(2))
        try:
            expected = smart_resize(80, height, width, 2, 32, 2**17, 768 * 2**10)
        except ValueError:
            with pytest.raises(ModelError, match="at most 200 to 1"):
                shaped.size(width, height)
        else:
            assert shaped.size(width, height) == expected, (width, height)


def test_it_reaches_a_process_that_has_no_transformers(case: Case) -> None:
    own = case.family.input
    rgb = np.random.default_rng(5).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    sent = pickle.dumps((own.grid, own.pixels, rgb))
    program = (
        "import pickle, sys; grid, pixels, rgb = pickle.load(sys.stdin.buffer);"
        "assert 'transformers' not in sys.modules;"
        "sys.stdout.buffer.write(grid(80, 48).boxes.tobytes() + pixels(rgb).numpy().tobytes())"
    )
    found = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True).stdout
    assert found == own.grid(80, 48).boxes.tobytes() + case.family.model_pixels(rgb).numpy().tobytes()
