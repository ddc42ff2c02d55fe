"""Fast paths of the packed attention against the plainest one, on random input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from codecflow.vlm.attention import FrameLayout, PagedKeys, Segment, StreamLayout, attending, packed_attention
from codecflow.vlm.kv_pool import PAGE, KVPool, KVShape, shift_keys

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


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    parts=st.lists(st.tuples(st.integers(1, 7), st.integers(0, 9), st.booleans()), min_size=1, max_size=4),
    seed=st.integers(0, 999),
)
def test_streams_attend_to_their_own_slots(parts: list[tuple[int, int, bool]], seed: int) -> None:
    """Parts: queries, slots before them, masked or causal."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(1, HEADS, sum(queries for queries, _, _ in parts), DIM, generator=generator)
    shape = KVShape(3, KV_HEADS, DIM, torch.float32, torch.device("cpu"))
    pool = KVPool(shape, 40 * PAGE * shape.bytes_per_token)
    for stored in (pool.keys, pool.values):
        stored.copy_(torch.randn(stored.shape, generator=generator))
    free = torch.randperm(pool.pages, generator=generator)
    streams, expected, at = [], [], 0
    for queries, before, masked in parts:
        offset, length = int(torch.randint(PAGE, (1,), generator=generator)), before + queries
        count = -(-(offset + length) // PAGE)
        pages, free = free[:count], free[count:]
        slots = (pages[:, None] * PAGE + torch.arange(PAGE)).flatten()[offset : offset + length]
        causal = torch.ones(queries, before + queries, dtype=torch.bool).tril(before)
        mask = causal & (torch.rand(causal.shape, generator=generator) < 0.7) | causal.roll(-1, 1) & causal
        mask[:, 0] = True
        segment = Segment(at, at + queries, length, mask if masked else None)
        streams.append(PagedKeys(pages, offset, length, (segment,)))
        own = query[0, :, at : at + queries]
        keys, values = (stored[1, slots].transpose(0, 1) for stored in (pool.keys, pool.values))
        expected.append(plain(own, keys, values, mask if masked else causal))
        at += queries
    with attending(StreamLayout(pool, tuple(streams))):
        found, _ = packed_attention(Layer(), query, query, query, None, DIM**-0.5)
    torch.testing.assert_close(found[0], torch.cat(expected), rtol=1e-4, atol=1e-5)


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

    torch.testing.assert_close(shift_keys(at(position), distance, inv_freq), at(position + distance), rtol=0, atol=1e-5)
