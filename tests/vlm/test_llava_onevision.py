"""Specific to LLaVA-OneVision: tokens that share patches, pictures not divisible into patches, selected hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from codecflow.errors import ModelError
from codecflow.vlm.families import Family
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny

from .llava_onevision import LlavaOnevisionCase
from .running import assert_equal, whole


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The family's own shape: 384 pixels, 27x27 patches of 14 pixels, 14x14 tokens."""
    folder: Path = make_tiny(tmp_path_factory.mktemp("llava"), "llava_onevision", vision_hidden=16, vision_layers=1)
    return load_model(str(folder), "float32", "cpu")


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (405, 720), (384, 384), (101, 37)])
def test_a_token_looks_at_the_patches_that_it_is_pooled_from(family: Family, width: int, height: int) -> None:
    grid = family.grid(width, height)
    assert (grid.rows, grid.columns) == (14, 14)
    pixels = np.zeros((height, width, 3), np.uint8)
    for token in (0, 6, 7, 6 * 14 + 7, 7 * 14 + 6, 195):
        patches = family.prepare([whole(family, pixels, np.arange(196) == token)])
        top, left = patches.places.min(0).tolist()
        bottom, right = (patches.places.max(0) + 1).tolist()
        assert len(patches.places) == (bottom - top) * (right - left) == 4
        expected = [
            left * 14 * width // 384,
            top * 14 * height // 384,
            -(-right * 14 * width // 384),
            -(-bottom * 14 * height // 384),
        ]
        assert grid.boxes[token].tolist() == expected


def test_neighbours_in_the_middle_share_patches_and_a_whole_frame_has_all(family: Family) -> None:
    pixels = np.zeros((384, 384, 3), np.uint8)
    middle = family.prepare([whole(family, pixels, np.isin(np.arange(196), [6, 7]))])  # columns 12, 13 and 13, 14
    assert len(middle.places) == 6
    apart = family.prepare([whole(family, pixels, np.isin(np.arange(196), [5, 6]))])
    assert len(apart.places) == 8
    assert len(family.prepare([whole(family, pixels)]).places) == 27 * 27


class SeveralLayers(LlavaOnevisionCase):
    sizes: ClassVar[dict[str, Any]] = {**LlavaOnevisionCase.sizes, "vision_feature_layer": [0, -2, -1]}


def test_features_of_several_layers_are_joined_as_the_model_does_it(tmp_path: Path) -> None:
    case = SeveralLayers(tmp_path)
    rng = np.random.default_rng(0)
    for frame in case.frames(rng, range(3), 0.5):
        with torch.inference_mode():
            found = case.family.encode(case.family.prepare([frame]))
        assert_equal(found, case.masked_features(frame), f"{frame.keep.sum()} tokens")


def test_a_processor_that_disagrees_with_the_model_is_refused(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path, "llava_onevision", vision_hidden=16)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        file = folder / name
        file.write_text(file.read_text().replace("384", "336"))
    with pytest.raises(ModelError, match="384x384"):
        load_model(str(folder), "float32", "cpu")
