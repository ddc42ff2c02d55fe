"""The results of GPU-only kernels, in plain torch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from codecflow.vlm.kernels import Scaled, Sequences


def reference_kernel(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The result of a kernel for ragged sequences, sequence by sequence."""
    output, logs = torch.empty_like(query), torch.empty(query.shape[1], len(query))
    groups = query.shape[1] // key.shape[1]
    ends, starts, lengths = (x.tolist() for x in (sequences.ends, sequences.starts, sequences.lengths))
    assert ends[-1] == len(query)
    for (begin, end), start, length in zip(pairwise(ends), starts[:-1], lengths, strict=True):
        k, v = (x[start : start + length].repeat_interleave(groups, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[begin:end], k) * scale
        if causal:
            seen = torch.ones(end - begin, length, dtype=torch.bool).tril(length - (end - begin))
            scores = scores.masked_fill(~seen, float("-inf"))
        output[begin:end] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
        logs[:, begin:end] = scores.logsumexp(-1)
    return output, logs


def reference_single(
    query: Tensor, keys: Scaled, values: Scaled, pages: Tensor, parts: Tensor, bounds: Tensor, page: int, scale: float
) -> Tensor:
    """Single queries over the pages of a pool, query by query."""
    output = torch.empty_like(query)
    groups = query.shape[1] // keys[0].shape[1]
    for row, (begin, end) in enumerate(pairwise(bounds.tolist())):
        own = parts[begin:end].tolist()
        assert all(number == row for number, *_ in own)
        places = torch.cat([torch.arange(start, stop) + table * page for _, start, stop, table in own])
        slots = pages[places // page] * page + places % page
        k, v = (
            (x[slots] if scales is None else x[slots].float() * scales[slots][:, :, None]).repeat_interleave(groups, 1)
            for x, scales in (keys, values)
        )
        weights = (torch.einsum("hd,khd->hk", query[row], k) * scale).softmax(-1)
        output[row] = torch.einsum("hk,khd->hd", weights, v)
    return output
