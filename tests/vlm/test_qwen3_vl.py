"""Specific to Qwen3-VL: pictures of any shape, a patch that spans two pictures, times as text, positions on three axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from codecflow.errors import ModelError
from codecflow.vlm.families import Family
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny
from codecflow.vlm.work import Frame

from .oracle import Oracle
from .qwen3_vl import Qwen3VLCase
from .running import QUESTION, Run, assert_equal, whole


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Qwen3VLCase:
    return Qwen3VLCase(tmp_path_factory.mktemp("qwen"))


# By hand: sides to the nearest 32 pixels (halves to even); if 80 frames of that have more than 24 * 2**20 pixels, both
# sides are divided by sqrt(80 * width * height / (24 * 2**20)) and rounded down.
@pytest.mark.parametrize(
    ("width", "height", "rows", "columns"),
    [
        (1280, 720, 13, 23),
        (720, 1280, 23, 13),
        (1920, 1080, 13, 23),
        (405, 720, 22, 13),  # a phone's portrait format
        (320, 240, 8, 10),
        (353, 287, 9, 11),  # odd sides
        (17, 40, 2, 1),  # smaller than a token
    ],
)
def test_frames_keep_their_shape_within_the_familys_budget(
    qwen: Qwen3VLCase, width: int, height: int, rows: int, columns: int
) -> None:
    grid = qwen.family.grid(width, height)
    assert (grid.rows, grid.columns) == (rows, columns)
    assert grid.boxes[0].tolist()[:2] == [0, 0]
    assert grid.boxes[-1].tolist()[2:] == [width, height]


def test_a_picture_as_thin_as_a_line_is_refused_with_its_size(qwen: Qwen3VLCase) -> None:
    with pytest.raises(ModelError, match="32000x40"):
        qwen.family.grid(32000, 40)


@pytest.mark.parametrize(("width", "height"), [(128, 96), (96, 160), (131, 97), (75, 190)])
def test_a_frame_is_prepared_as_the_familys_image_processor_does_it(qwen: Qwen3VLCase, width: int, height: int) -> None:
    rng = np.random.default_rng(width)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        size={"shortest_edge": 1024, "longest_edge": 2**20},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    own = processor(pixels, return_tensors="pt")
    patches = qwen.family.prepare([whole(qwen.family, pixels)])
    assert own["image_grid_thw"].tolist() == [[1, *patches.shapes[0]]]
    expected = own["pixel_values"].view(-1, 3, 2, 16, 16)  # the picture twice: a patch spans two
    repeated = qwen.family.normalised(patches.pixels)[:, :, None].expand_as(expected)
    assert float((repeated - expected).abs().max()) <= 1.01 / 127.5  # both round to 8 bits


def test_a_frames_time_stands_before_it(qwen: Qwen3VLCase) -> None:
    before, after = qwen.family.frame_text(7, 3.54)
    assert qwen.family.tokenizer.decode(before) == "<3.5 seconds><|vision_start|>"
    assert qwen.family.tokenizer.decode(after) == "<|vision_end|>"
    for time_s, said in ((3599.94, "3599.9"), (3599.96, "0.0"), (7 * 86400.0 + 12.5, "12.5")):
        assert qwen.family.tokenizer.decode(qwen.family.frame_text(0, time_s)[0]).startswith(f"<{said} seconds>")


def test_rows_and_columns_count_from_the_frames_first_position_and_what_is_dropped_leaves_its_place(
    qwen: Qwen3VLCase,
) -> None:
    grid = qwen.family.grid(96, 160)  # 5 rows of 3
    positions, span = qwen.family.frame_positions(grid, np.array([0, 4, 14]), 2, 1)
    assert span == 2 + 5 + 1
    assert positions.tolist() == [[0, 1, 2, 2, 2, 7], [0, 1, 2, 3, 6, 7], [0, 1, 2, 3, 4, 7]]


def test_a_window_whose_pictures_change_shape_is_one_long_masked_forward(qwen: Qwen3VLCase) -> None:
    rng = np.random.default_rng(3)
    run, oracle = Run(qwen), Oracle(qwen)
    sizes = [(128, 96), (96, 160), (131, 97), (75, 190)]
    for step in range(5):
        frames = []
        for index in (2 * step, 2 * step + 1):
            width, height = sizes[index % 4]
            keep = rng.random(qwen.family.grid(width, height).tokens) < 0.6
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            taken = qwen.family.input.patches(pixels, keep) if keep.any() else None
            frames.append(Frame(index, index / 2, keep, taken, (width, height)))
        first = max(0, 2 * step - 2)
        assert_equal(run.step(frames, first), oracle.step(frames, first, [QUESTION.prompt]), f"step {step}")


class Portrait(Qwen3VLCase):
    width, height = 64, 160


def test_a_portrait_window_is_transformers_own_model(tmp_path: Path) -> None:
    case = Portrait(tmp_path)
    frames = case.frames(np.random.default_rng(4), range(3))
    assert_equal(Run(case).step(frames, 0), case.stock_logits(frames, QUESTION.prompt), "2 x 5 tokens a frame")


def test_without_deepstack_there_is_one_level(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path, "qwen3_vl", deepstack=())
    family: Family = load_model(str(folder), "float32", "cpu")
    pixels = np.zeros((96, 128, 3), np.uint8)
    with torch.inference_mode():
        features = family.encode(family.prepare([whole(family, pixels, np.arange(12) < 5)]))
    assert features.shape == (5, 1, 64)


def test_a_template_that_knows_no_videos_is_refused_when_loading(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path, "qwen3_vl")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("video_pad", "movie_pad"))
    with pytest.raises(ModelError, match="chat template"):
        load_model(str(folder), "float32", "cpu")
