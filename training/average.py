"""Makes one trained part of several runs': the mean of their weights, as if one model had learnt what each has.

    average.py RUN/trained.safetensors RUN/trained.safetensors --out FILE

What one run mistakes in a camera it never saw is its own, what it has learnt is not: the mean keeps the second (Wortsman et
al., "Model soups", 2022). The runs must have begun from the same weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from model import write_part
from torch import Tensor

from codecflow.errors import CodecFlowError
from codecflow.trained.assemble import TrainedPart, read_trained_part


def average(parts: Sequence[TrainedPart]) -> dict[str, Tensor]:
    """The mean of `parts`' tensors by name, float32; of a low-rank product the product's, as near as its rank allows.

    Raises ValueError where they are not trained parts of one shape.
    """
    first = parts[0]
    shapes = {name: tensor.shape for name, tensor in first.tensors.items()}
    for part in parts[1:]:
        if (part.side, part.lora_scale) != (first.side, first.lora_scale) or shapes != {
            name: tensor.shape for name, tensor in part.tensors.items()
        }:
            raise ValueError("they are not runs of one recipe: their tensors, input sizes or scales differ")
    mean = {}
    for name in shapes:
        if not name.startswith("lora."):
            mean[name] = torch.stack([part.tensors[name].float() for part in parts]).mean(0)
        elif name.endswith(".a"):
            up = name.removesuffix("a") + "b"
            pairs = [(part.tensors[name].float(), part.tensors[up].float()) for part in parts]
            mean[name], mean[up] = mean_product(pairs)
    return mean


def mean_product(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(a (rank, in), b (out, rank)) whose product b @ a is nearest to the mean of `pairs`' products; each pair as these."""
    rank = len(pairs[0][0])
    a = torch.cat([pair[0] for pair in pairs])
    b = torch.cat([pair[1] for pair in pairs], 1) / len(pairs)
    # The singular values of b @ a, found in the small square between both's bases.
    left, small_b = torch.linalg.qr(b)
    right, small_a = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(small_b @ small_a.T)
    root = s[:rank].sqrt()
    return root[:, None] * (v[:rank] @ right.T), left @ u[:, :rank] * root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="trained parts that train.py wrote")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    try:
        parts = [read_trained_part(path) for path in args.runs]
        mean = average(parts)
    except (CodecFlowError, ValueError) as error:
        raise SystemExit(f"average.py: {error}") from None
    write_part(args.out, mean, parts[0].side)


if __name__ == "__main__":
    main()
