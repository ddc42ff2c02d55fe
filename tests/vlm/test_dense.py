"""Linear layers on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from codecflow.vlm.dense import Dense, Int8, in_few_sizes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_are_padded_to_few_sizes_in_half_precision(dtype: torch.dtype) -> None:
    """Each step of a worker has another number of tokens, and oneDNN keeps half a MiB of code for each size."""
    sizes, counts = set(), range(1, 2000, 7)

    def layer(x: Tensor) -> Tensor:
        sizes.add(len(x))
        return 2 * x

    for count in counts:
        x = torch.arange(count * 3).view(count, 3).to(dtype)
        assert torch.equal(in_few_sizes(layer, x), 2 * x)
    assert len(sizes) < 50 < len(counts)
    assert max(sizes) < 1.125 * max(counts)


def test_float32_runs_as_it_is() -> None:
    x = torch.ones(13, 3)
    assert in_few_sizes(lambda rows: rows, x) is x


@pytest.mark.parametrize("kind", [None, Int8])
def test_padding_changes_no_row(kind: type[Int8] | None) -> None:
    weight, bias, x = (torch.randn(shape).bfloat16() for shape in ((16, 24), (16,), (13, 24)))
    dense = Dense(weight, bias)
    found = (dense if kind is None else kind(dense))(x)
    assert found.shape == (13, 16)
    assert torch.allclose(found.float(), linear(x.float(), weight.float(), bias.float()), atol=0.3)
