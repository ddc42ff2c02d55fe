"""Fast paths of the packed attention compared with the plain one, on random input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from codecflow.vlm import attention
from codecflow.vlm.attention import (
    FrameLayout,
    PagedKeys,
    Segment,
    StreamLayout,
    attending,
    packed_attention,
    within_streams,
)
from codecflow.vlm.kernels import TOLERANCE, Kernel, Kernels, deviation
from codecflow.vlm.kv_pool import PAGE, KVPool, KVShape
from codecflow.vlm.moves import rotations, shift_keys

from .ragged import reference_kernel

HEADS, KV_HEADS, DIM = 4, 2, 8


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """(heads, q, dim), (kv_heads, k, dim) twice, (q, k) bool -> (q, heads, dim)."""
    key, value = (x.repeat_interleave(query.shape[0] // x.shape[0], 0) for x in (key, value))
    scores = (query @ key.transpose(1, 2) / DIM**0.5).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(0, 1)


class Layer(nn.Module):
    layer_idx = 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 999))
def test_frames_attend_within_themselves(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, HEADS, sum(lengths), DIM, generator=generator) for _ in range(3))
    with attending(FrameLayout(tuple(lengths))):
        found, _ = packed_attention(Layer(), query, key, value, None, DIM**-0.5)
    frame = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    expected = plain(query[0], key[0], value[0], frame[:, None] == frame)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


def layout_of(
    parts: list[tuple[int, int, int]], generator: torch.Generator, kernel: Kernel | None
) -> tuple[StreamLayout, list[Tensor]]:
    """Parts: tokens in a stream's window, how many of the last are queries, branches of three tokens each; the second
    continues the first. Returns the layout, and per stream what each query sees: (queries, keys) bool."""
    shape = KVShape(3, KV_HEADS, DIM, torch.float32, torch.device("cpu"))
    pool = KVPool(shape, 40 * PAGE * shape.bytes_per_token)
    for stored in (pool.keys.stored, pool.values.stored):
        stored.copy_(torch.randn(stored.shape, generator=generator))
    free = torch.randperm(pool.pages, generator=generator).numpy()
    streams, seen, at = [], [], 0
    for window, queries, branches in parts:
        offset, length = int(torch.randint(PAGE, (1,), generator=generator)), window + 3 * branches
        count = -(-(offset + length) // PAGE)
        pages, free = free[:count], free[count:]
        segments, masks = [], []
        if queries:
            segments.append(Segment(at, at + queries, (0, window)))
            masks.append(torch.ones(queries, length, dtype=torch.bool).tril(window - queries))
        at += queries
        for number in range(branches):
            first = window + 3 * number
            parent = ((first - 3, first),) if number == 1 else ()
            segments.append(Segment(at, at + 3, (first, first + 3), ((0, window), *parent)))
            mask = torch.zeros(3, length, dtype=torch.bool)
            mask[:, :window] = True
            for a, b in parent:
                mask[:, a:b] = True
            mask[:, first : first + 3] = torch.ones(3, 3).tril().bool()
            masks.append(mask)
            at += 3
        streams.append(PagedKeys(pages, offset, tuple(segments)))
        seen.append(torch.cat(masks))
    return StreamLayout(pool, tuple(streams), Kernels(kernel)), seen


@pytest.mark.parametrize("kernel", [None, reference_kernel], ids=["one call per stream", "one call for all"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    parts=st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 9), st.integers(0, 3)).filter(
            lambda p: p[1] <= p[0] and any(p[1:])
        ),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 999),
    narrow=st.booleans(),
)
def test_streams_attend_to_their_own_slots(
    kernel: Kernel | None, parts: list[tuple[int, int, int]], seed: int, narrow: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    layout, seen = layout_of(parts, generator, kernel)
    query = torch.randn(sum(len(mask) for mask in seen), HEADS, DIM, generator=generator)
    expected, at = [], 0
    for stream, mask in zip(layout.streams, seen, strict=True):
        slots = np.concatenate([np.arange(page * PAGE, page * PAGE + PAGE) for page in stream.pages])
        own = torch.from_numpy(slots[stream.offset : stream.offset + mask.shape[1]])
        keys, values = (stored.transpose(0, 1) for stored in layout.pool.read(own, 1))
        expected.append(plain(query[at : at + len(mask)].transpose(0, 1), keys, values, mask))
        at += len(mask)
    whole = torch.cat(expected)
    if narrow:
        rows = sorted(set(torch.randint(at, (4,), generator=generator).tolist()))
        query, whole, layout = query[rows], whole[rows], layout.narrowed(rows)
    found = within_streams(query, layout, 1, DIM**-0.5)
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


def test_more_keys_than_one_call_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "GATHERED", 3 * PAGE)
    generator = torch.Generator().manual_seed(0)
    layout, seen = layout_of([(30, 5, 2), (20, 3, 1), (9, 9, 0), (40, 0, 1)], generator, reference_kernel)
    query = torch.randn(sum(len(mask) for mask in seen), HEADS, DIM, generator=generator)
    assert len(layout.calls) > 2
    plainly = StreamLayout(layout.pool, layout.streams)
    found, expected = (within_streams(query, one, 1, DIM**-0.5) for one in (layout, plainly))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_kernel_that_is_off_is_not_used() -> None:
    cpu = torch.device("cpu")
    assert deviation(reference_kernel, cpu, torch.float32, HEADS, KV_HEADS, DIM) < 1e-5

    def off(*given: Any) -> tuple[Tensor, Tensor]:
        output, logs = reference_kernel(*given)
        return output * 1.1, logs

    assert deviation(off, cpu, torch.float32, HEADS, KV_HEADS, DIM) > TOLERANCE


def test_there_is_no_layout_to_guess() -> None:
    x = torch.zeros(1, 1, 1, 8)
    with pytest.raises(LookupError):
        packed_attention(Layer(), x, x, x, None, 1.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(position=st.integers(0, 4000), distance=st.integers(-4000, 4000), seed=st.integers(0, 999))
def test_a_shifted_key_is_the_key_of_its_new_position(position: int, distance: int, seed: int) -> None:
    half = 4
    inv_freq = 1.0 / 10000.0 ** (torch.arange(half) / half)
    key = torch.randn(2, 3, 2 * half + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pair = torch.complex(key[..., :half], key[..., half : 2 * half])

    def at(place: int) -> Tensor:
        turned = pair * torch.polar(torch.ones(half, dtype=torch.float64), place * inv_freq.double())
        return torch.cat([turned.real, turned.imag, key[..., 2 * half :]], -1).float()

    found = at(position)[None]
    table, index = rotations(np.array([distance, distance]), inv_freq)
    shift_keys(found, table[:, index])
    torch.testing.assert_close(found[0], at(position + distance), rtol=0, atol=1e-5)
