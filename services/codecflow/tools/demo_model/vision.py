"""Reads DINOv2 ViT-S/14 from its ONNX graph, with the names of transformers' InternVL vision tower."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from codecflow.errors import ModelError

if TYPE_CHECKING:
    from transformers import InternVLVisionConfig

WIDTH, LAYERS, HEADS, PATCH = 384, 12, 6, 14
TRAINED_GRID = 37
"""DINOv2's position table is 37 x 37 patches (518 pixels); other sizes interpolate it."""

_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.projection_layer",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layer_scale1.lambda1": "lambda_1",
    "layer_scale2.lambda1": "lambda_2",
}


def vision_config(side: int) -> InternVLVisionConfig:
    """Configuration of transformers' vision tower for DINOv2 ViT-S/14, with square inputs of `side` pixels."""
    from transformers import InternVLVisionConfig

    return InternVLVisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        attention_bias=True,
        image_size=(side, side),
        patch_size=(PATCH, PATCH),
        use_mean_pooling=False,
    )


def read_vision_weights(path: Path, side: int) -> dict[str, torch.Tensor]:
    """State dict (float32) of an InternVLVisionModel for square inputs of `side` pixels.

    The exporter stored the weights of linear layers transposed and nameless, as inputs of MatMul nodes that are named after
    their module; the position table is two nameless constants. Raises ModelError when the graph is not that of DINOv2-S.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name.removeprefix("backbone."): a for name, a in arrays.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in arrays:
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{module}.weight"] = arrays[node.input[1]].T
    state = dict(_renamed(weights))
    state["embeddings.position_embeddings"] = _positions(arrays.values(), side // PATCH)
    expected = 6 + 18 * LAYERS
    if len(state) != expected:
        raise ModelError(f"{path.name}: {len(state)} weights of a DINOv2-S backbone found, {expected} expected")
    return state


def _renamed(weights: dict[str, npt.NDArray[np.float32]]) -> Iterable[tuple[str, torch.Tensor]]:
    for name, array in weights.items():
        value = torch.from_numpy(np.array(array, np.float32))
        if name.startswith("encoder.layer."):
            _, _, index, rest = name.split(".", 3)
            module, _, kind = rest.rpartition(".")
            renamed = _BLOCK[rest] if rest in _BLOCK else f"{_BLOCK[module]}.{kind}"
            yield f"encoder.layer.{index}.{renamed}", value
        else:
            yield name, value


def _positions(arrays: Iterable[npt.NDArray[np.float32]], grid: int) -> torch.Tensor:
    """(1, 1 + grid * grid, WIDTH): the class token's position, then the patches', interpolated.

    As in transformers' DINOv2 and InternVL: bicubic, to the exact size, without antialiasing. DINOv2's own code scales by
    (grid + 0.1) / 37 instead: at 224 pixels its features differ from these by 1.6 %. With antialiasing it would be 5.9 %.
    """
    tables = {a.shape: a for a in arrays if a.ndim == 3 and a.shape[0] == 1 and a.shape[2] == WIDTH}
    class_position = tables.get((1, 1, WIDTH))
    patches = tables.get((1, TRAINED_GRID * TRAINED_GRID, WIDTH))
    if class_position is None or patches is None:
        raise ModelError("the ONNX file holds no DINOv2 position table")
    table = torch.from_numpy(np.array(patches)).reshape(1, TRAINED_GRID, TRAINED_GRID, WIDTH).permute(0, 3, 1, 2)
    table = functional.interpolate(table, size=(grid, grid), mode="bicubic", align_corners=False)
    flat = table.permute(0, 2, 3, 1).reshape(1, grid * grid, WIDTH)
    return torch.cat([torch.from_numpy(np.array(class_position)), flat], dim=1)
