"""The assembled vision tower equals DINOv2, also at the sizes that codecflow-tiny is trained for."""

from __future__ import annotations

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, InternVLVisionModel

from codecflow.folders import cache_dir
from codecflow.tools.demo_model.parts import VISION, locate
from codecflow.tools.demo_model.vision import (
    HEADS,
    LAYERS,
    PATCH,
    TRAINED_GRID,
    WIDTH,
    read_vision_weights,
    vision_config,
)

pytestmark = pytest.mark.slow
DINOV2_NAMES = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.projection_layer": "attention.o_proj",
    "lambda_1": "layer_scale1.lambda1",
    "lambda_2": "layer_scale2.lambda1",
}


def dinov2() -> torch.nn.Module:
    """transformers' own model, which keeps the table of 37 x 37 positions and interpolates it for each input."""
    side = TRAINED_GRID * PATCH
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, image_size=side, patch_size=PATCH
    )
    model = Dinov2Model(config)
    weights = read_vision_weights(locate(VISION, cache_dir()), side)
    for ours, theirs in DINOV2_NAMES.items():
        weights = {name.replace(ours, theirs): weight for name, weight in weights.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["embeddings.mask_token"], [])
    return model


@pytest.mark.parametrize("side", [224, 336])
def test_features_are_those_of_dinov2(side: int) -> None:
    tower = InternVLVisionModel(vision_config(side))
    tower.load_state_dict(read_vision_weights(locate(VISION, cache_dir()), side))
    picture = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        got, expected = (model.train(False)(picture).last_hidden_state for model in (tower, dinov2()))
    assert got.shape == (1, 1 + (side // PATCH) ** 2, WIDTH)
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)
