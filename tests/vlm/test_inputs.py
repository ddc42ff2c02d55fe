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
    shaped = ShapedInput(PREPROCESS, 16, 2, 2, 80, 2**17, 768 * 2**10)
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
    keep = np.arange(own.grid(80, 48).tokens) % 3 == 0
    sent = pickle.dumps((own.grid, own.patches, rgb, keep))
    program = (
        "import pickle, sys; grid, patches, rgb, keep = pickle.load(sys.stdin.buffer);"
        "assert 'transformers' not in sys.modules;"
        "sys.stdout.buffer.write(grid(80, 48).boxes.tobytes() + patches(rgb, keep).tobytes())"
    )
    found = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True).stdout
    assert found == own.grid(80, 48).boxes.tobytes() + own.patches(rgb, keep).tobytes()


def test_patches_are_those_of_the_resized_picture_under_kept_tokens(case: Case) -> None:
    rng = np.random.default_rng(6)
    own, side = case.family.input, case.family.input.patch
    for width, height in [(80, 48), (97, 101), (320, 180)]:
        rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = own.pixels(rgb).numpy()
        for share in (0.1, 0.6, 1.0):
            keep = rng.random(own.grid(width, height).tokens) < share
            places = own.places(np.flatnonzero(keep), picture.shape[:2])
            patches = own.patches(rgb, keep)
            assert len(patches) == len(places) == len({*map(tuple, places.tolist())})
            for (row, column), patch in zip(places * side, patches, strict=True):
                assert (patch == picture[row : row + side, column : column + side]).all()
