"""Specific to InternVL: its processor's pictures, its template's text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny

from .cases import InternVLCase
from .running import whole


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> InternVLCase:
    return InternVLCase(tmp_path_factory.mktemp("internvl") / "model")


@pytest.mark.parametrize(("width", "height"), [(320, 180), (180, 320), (97, 111), (640, 480), (112, 112)])
def test_pictures_are_those_of_its_processor(case: InternVLCase, width: int, height: int) -> None:
    """Its processor needs torchvision; the Pillow version rounds and clips between its two passes: no extremes here."""
    rng = np.random.default_rng(0)
    cells = rng.integers(64, 192, (height // 8 + 1, width // 8 + 1, 3))
    pixels = np.kron(cells, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)
    processor = GotOcr2ImageProcessorPil.from_pretrained(case.folder)
    expected = torch.as_tensor(processor(pixels, return_tensors="np")["pixel_values"][0])
    patches = case.family.prepare([whole(case.family, pixels)])
    grey = 1 / (255 * min(processor.image_std))
    for patch, (row, column) in zip(case.family.normalised(patches.pixels), patches.places.tolist(), strict=True):
        own = expected[:, row * 14 : row * 14 + 14, column * 14 : column * 14 + 14]
        difference = (patch - own).abs() / grey
        assert difference.max() <= 2.01, f"patch {row}, {column} differs by {difference.max():.2f} grey levels"
        assert difference.mean() <= 0.2


def test_text_is_tokenised_in_parts_as_it_would_be_whole(case: InternVLCase) -> None:
    family = case.family
    before, after = family.chat("Is it on?")
    parts = [*before]
    for index in (8, 9, 98):
        head, tail = family.frame_text(index, index / 2)
        parts += [*head, *tail]
    video = "\n".join(f"Frame{number}: <img></img>" for number in (9, 10, 99))
    whole = f"<|im_start|>user\n{video}\nIs it on?<|im_end|>\n<|im_start|>assistant\n"
    assert [*parts, *after] == family.ids(whole)


def test_numbers_of_frames_begin_again(case: InternVLCase) -> None:
    """The tags of a stream's sixth day are as short as those of its first minutes."""
    family = case.family
    numbers = [family.tokenizer.decode(family.frame_text(index, 0.0)[0]) for index in (0, 99, 100, 864_123)]
    assert numbers == [f"Frame{number}: <img>" for number in (1, 100, 1, 24)]


def test_features_of_an_earlier_layer_may_be_the_ones_projected(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", "internvl", **InternVLCase.sizes)
    config = (folder / "config.json").read_text()
    assert '"vision_feature_layer": -1' in config
    (folder / "config.json").write_text(config.replace('"vision_feature_layer": -1', '"vision_feature_layer": -2'))
    case = InternVLCase.__new__(InternVLCase)
    case.folder = folder
    case.family = load_model(str(folder), "float32", "cpu")
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)
    with torch.inference_mode():
        frame = whole(case.family, pixels)
        found = case.family.encode(case.family.prepare([frame]))
        model = type(case.family.model).from_pretrained(folder, dtype=torch.float32).eval()
        expected = model.model.get_image_features(case.normalised([frame]), return_dict=True).pooler_output[0]
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-4, atol=1e-5)
