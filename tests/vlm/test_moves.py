"""Moves of keys and values: together they do what each does alone, wherever they read and write."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codecflow.vlm import moves
from codecflow.vlm.kv_pool import PAGE, KVPool, KVShape
from codecflow.vlm.moves import Moves, Prefix, rotations, shift_keys

LAYERS, HEADS, DIM = 3, 2, 8
INV_FREQ = 1.0 / 10000.0 ** (torch.arange(DIM // 2) / (DIM // 2))


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, HEADS, DIM, generator=torch.Generator().manual_seed(seed))


def filled(pages: int) -> KVPool:
    shape = KVShape(LAYERS, HEADS, DIM, torch.float32, torch.device("cpu"))
    pool = KVPool(shape, pages * PAGE * shape.bytes_per_token)
    slots = torch.arange(pages * PAGE)
    pool.write(slots, random(LAYERS, len(slots), seed=0), random(LAYERS, len(slots), seed=1))
    return pool


def shifted(keys: torch.Tensor, *distances: int) -> torch.Tensor:
    found = keys.clone()
    table, index = rotations(np.array(distances), INV_FREQ)
    shift_keys(found, table[:, index])
    return found


@pytest.mark.parametrize("elements", [1, 2**24], ids=["layer by layer", "all layers"])
def test_every_source_is_read_before_anything_is_written(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One window's background moves to where another's was, and that one's to where the first one's was; a third window
    is rebased; two prefixes are placed."""
    monkeypatch.setattr(moves, "_ELEMENTS", elements)
    pool = filled(4)
    first, second, third = np.arange(3), np.arange(PAGE, PAGE + 3), np.arange(2 * PAGE, 2 * PAGE + 5)
    before = pool.read(torch.arange(4 * PAGE))
    prefix = Prefix([7, 8], random(LAYERS, 2, seed=2), random(LAYERS, 2, seed=3))
    together = Moves(pool, prefix, INV_FREQ)
    together.carry(first, second, np.array([5, -9, 0]))
    together.carry(second, first, np.array([1, 1, 400]))
    together.turn(third, -3000)
    together.place(np.array([3 * PAGE, 3 * PAGE + 1]), 17)
    together.place(np.array([40, 41]), 0)
    together.apply()
    keys, values = (expected.clone() for expected in before)
    keys[:, second], values[:, second] = shifted(before[0][:, first], 5, -9, 0), before[1][:, first]
    keys[:, first], values[:, first] = shifted(before[0][:, second], 1, 1, 400), before[1][:, second]
    keys[:, third] = shifted(before[0][:, third], *[-3000] * 5)
    keys[:, 3 * PAGE : 3 * PAGE + 2], values[:, 3 * PAGE : 3 * PAGE + 2] = shifted(prefix.keys, 17, 17), prefix.values
    keys[:, 40:42], values[:, 40:42] = prefix.keys, prefix.values
    found = pool.read(torch.arange(4 * PAGE))
    assert torch.equal(found[0], keys)
    assert torch.equal(found[1], values)
    together.apply()
    assert torch.equal(pool.keys.read(0, torch.arange(4 * PAGE)), keys[0]), "applied twice"
