"""Attention kernels for ragged sequences: many sequences of different lengths in one call, without padding or mask tensors.

On a GPU in half precision: torch's own FlashAttention-2, and FlashAttention-3 where the extra `fa3` is installed. Both are
internal interfaces that may change with a release, so each is compared with plain attention before it is used. Otherwise
attention.py calls scaled_dot_product_attention.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from codecflow.vlm.fused import quantised
from codecflow.vlm.transfer import all_to_device, to_device

_logger = logging.getLogger("codecflow.engine")

_FEW = 16
"""Up to this many queries per sequence, its keys are split among programs."""

TOLERANCE = 0.02
"""Maximum relative difference from float32 attention at which a kernel is used. bfloat16 alone explains 0.005."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Which keys the queries of a call see. int32 tensors: on the device of the queries, or of a plan on the CPU.

    `ends`: (sequences + 1,) the end of each sequence's queries in the packed queries, starting with 0. `starts`: (sequences
    + 1,) the start of its keys, in any order; the last entry is unused. `lengths`: (sequences,) its number of keys.
    `max_queries`, `max_keys`: maximum over the sequences.
    """

    ends: Tensor
    starts: Tensor
    lengths: Tensor
    max_queries: int
    max_keys: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.ends, self.starts, self.lengths

    def on(self, device: torch.device) -> Sequences:
        """The same on `device`, in one copy."""
        return self.taken(iter(all_to_device(self.tensors, device)))

    def taken(self, tensors: Iterator[Tensor]) -> Sequences:
        """The same with the next three `tensors` as its own."""
        return Sequences(next(tensors), next(tensors), next(tensors), self.max_queries, self.max_keys)


Kernel = Callable[[Tensor, Tensor, Tensor, Sequences, bool, float], tuple[Tensor, Tensor]]
"""Called with query (queries, heads, head_dim), key and value (keys, kv_heads, head_dim), the sequences, whether a query
sees only keys up to its own (the last query sees the last key), and the scale of scores. Returns the output, shaped like the
query, and the log-sum-exp of the scores, (heads, queries) float32."""


def flash2(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """FlashAttention-2 (arXiv 2307.08691) from torch."""
    output, logs, *_ = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        sequences.ends,
        sequences.starts,
        sequences.max_queries,
        sequences.max_keys,
        0.0,
        causal,
        False,
        scale=scale,
        seqused_k=sequences.lengths,
    )
    return output, logs


def flash3(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """FlashAttention-3 (arXiv 2407.08608) for Hopper GPUs, from the package fa3-fwd."""
    import fa3_fwd._C  # type: ignore[import-not-found]  # noqa: F401  # registers the operator

    ends, starts, lengths = sequences.ends, sequences.starts, sequences.lengths
    longest = sequences.max_queries, sequences.max_keys
    # Few queries leave most of the GPU idle unless each sequence's keys are split (0: chosen by the kernel).
    splits = 0 if sequences.max_queries <= _FEW else 1
    output, logs, *_ = torch.ops.fa3_fwd.fwd(
        *(query, key, value, None, None, None, None),  # no new keys, no second query, no output buffer
        *(ends, starts, None, None, lengths, *longest),
        *(None, None, None, None, None, None, None, None, None),  # no pages, no rotation, no fp8 scales
        *(scale, causal, -1, -1, 0, 0.0, True, None, splits, None, 0),
    )
    return output, logs


KERNELS: dict[str, Kernel] = {"flash3": flash3, "flash2": flash2}
"""The kernels of this module, in order of preference."""


Scaled = tuple[Tensor, Tensor | None]
"""Keys or values of one layer as the pool stores them (kv_tensor.py), and their scales if stored in 8 bits."""

SingleKernel = Callable[[Tensor, Scaled, Scaled, Tensor, Tensor, Tensor, int, float], Tensor]
"""Attention of single queries that reads keys and values in place from the pool; see paged_triton.single_queries."""

PART = 512
"""Keys per program of such a kernel."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels for one device, precision and head shape."""

    ragged: Kernel | None = None
    single: SingleKernel | None = None


NONE = Kernels()


@lru_cache(maxsize=32)
def choose_kernels(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, *, eight_bit: bool = False
) -> Kernels:
    """The best kernels whose results match plain attention, for these shapes on this device. Logs the choice once.
    `eight_bit`: keys and values are stored in 8 bits."""
    if device.type != "cuda" or dtype not in {torch.float16, torch.bfloat16}:
        return NONE
    where = (device, dtype, heads, kv_heads, head_dim)
    ragged = None
    for name, kernel in KERNELS.items():
        if _usable(name, partial(deviation, kernel, *where)):
            ragged = kernel
            break
    if ragged is None:
        _logger.info(
            "attention by scaled_dot_product_attention, one call per stream: no kernel for ragged sequences works"
        )
    try:
        from codecflow.vlm.paged_triton import single_queries
    except ImportError:
        return Kernels(ragged)
    usable = _usable("paged", partial(single_deviation, single_queries, *where, eight_bit=eight_bit))
    return Kernels(ragged, single_queries if usable else None)


def _usable(name: str, deviation_of: Callable[[], float]) -> bool:
    """Whether a kernel runs here and its results are close enough to plain attention."""
    try:
        off = deviation_of()
    except Exception as error:  # noqa: BLE001  # not installed, another GPU, an unsupported head size, a changed interface
        _logger.debug("attention kernel %s cannot be used here: %s", name, str(error).partition("\n")[0])
        return False
    if off > TOLERANCE:
        _logger.warning("attention kernel %s is %.3f off plain attention, so it is not used", name, off)
        return False
    _logger.info("attention kernel %s: %.4f from plain attention", name, off)
    return True


def deviation(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int
) -> float:
    """The largest difference between `kernel` and float32 attention, relative to the largest value. Covers causal and full
    sequences whose keys are not contiguous and not in order, some with a single query."""
    generator = torch.Generator(device).manual_seed(0)
    # Queries, and the start and end of their keys.
    cases = [[(70, 300, 500), (1, 0, 131), (33, 130, 163)], [(1, 10, 200), (1, 0, 300), (1, 260, 500)]]
    worst = 0.0
    for parts in cases:
        count = sum(queries for queries, _, _ in parts)
        query = torch.randn(count, heads, head_dim, device=device, generator=generator).to(dtype)
        key, value = (
            torch.randn(512, kv_heads, head_dim, device=device, generator=generator).to(dtype) for _ in range(2)
        )
        for causal in (True, False):
            output, logs = kernel(query, key, value, sequences_of(parts).on(device), causal, head_dim**-0.5)
            begin = 0
            for queries, start, stop in parts:
                own = slice(begin, begin + queries)
                k, v = (x[start:stop].float().repeat_interleave(heads // kv_heads, 1) for x in (key, value))
                scores = torch.einsum("qhd,khd->hqk", query[own].float(), k) * head_dim**-0.5
                if causal:
                    seen = torch.ones(queries, stop - start, dtype=torch.bool, device=device).tril(
                        stop - start - queries
                    )
                    scores = scores.masked_fill(~seen, float("-inf"))
                expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
                off = (output[own].float() - expected).abs().max() / expected.abs().max()
                off_logs = (logs[:, own].float() - scores.logsumexp(-1)).abs().max()
                worst = max(worst, float(off.nan_to_num(1e9)), float(off_logs.nan_to_num(1e9)))
                begin += queries
    return worst


def single_deviation(
    kernel: SingleKernel,
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    eight_bit: bool = False,
) -> float:
    """Like `deviation`, for two queries over pages that are not contiguous; one query sees two ranges of keys. `eight_bit`:
    keys and values are stored in 8 bits; that rounding itself is not counted."""
    generator = torch.Generator(device).manual_seed(0)
    page, count = 16, 64
    query = torch.randn(2, heads, head_dim, device=device, generator=generator).to(dtype)
    key, value = (
        torch.randn(count * page, kv_heads, head_dim, device=device, generator=generator).to(dtype) for _ in range(2)
    )
    stored: list[Scaled] = [(key, None), (value, None)]
    if eight_bit:
        packed = [quantised(x.reshape(-1, head_dim)) for x in (key, value)]
        stored = [(x.view(key.shape), scales.view(key.shape[:2])) for x, scales in packed]
        key, value = (x.float() * scales[:, :, None] for x, scales in stored if scales is not None)
    pages = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    parts = [(0, 5, 200, 0), (1, 3, 3 + PART, 20), (1, 600, 640, 20)]
    given, bounds = (to_device(np.array(x, dtype=np.int32), device) for x in (parts, [0, 1, 3]))
    found = kernel(query, stored[0], stored[1], to_device(pages, device), given, bounds, page, head_dim**-0.5)
    worst = 0.0
    for row in range(2):
        own = [(start, stop, table) for number, start, stop, table in parts if number == row]
        places = torch.cat([torch.arange(start, stop) + table * page for start, stop, table in own])
        slots = (pages[places // page] * page + places % page).to(device)
        k, v = (x[slots].float().repeat_interleave(heads // kv_heads, 1) for x in (key, value))
        weights = (torch.einsum("hd,khd->hk", query[row].float(), k) * head_dim**-0.5).softmax(-1)
        expected = torch.einsum("hk,khd->hd", weights, v)
        off = (found[row].float() - expected).abs().max() / expected.abs().max()
        worst = max(worst, float(off.nan_to_num(1e9)))
    return worst


def sequences_of(parts: list[tuple[int, int, int]]) -> Sequences:
    """From (queries, first key, end of keys) of each sequence; on the CPU."""
    ends = [0]
    for queries, _, _ in parts:
        ends.append(ends[-1] + queries)
    starts = [start for _, start, _ in parts]
    lengths = [stop - start for _, start, stop in parts]
    return Sequences(
        torch.tensor(ends, dtype=torch.int32),
        torch.tensor([*starts, 0], dtype=torch.int32),
        torch.tensor(lengths, dtype=torch.int32),
        max(queries for queries, _, _ in parts),
        max(lengths),
    )
