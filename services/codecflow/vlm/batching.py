"""Splitting a step's work so that no forward outgrows the memory for activations, and timing it by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

Item = TypeVar("Item")


class Timed(Protocol):
    """Whatever keeps seconds by stage."""

    seconds: dict[str, float]


TimedItem = TypeVar("TimedItem", bound=Timed)


def batches(items: Iterable[Item], size: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """Consecutive items, as many as together have a size of at most `limit`; one alone may be larger."""
    batch: list[Item] = []
    total = 0
    for item in items:
        if batch and total + size(item) > limit:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch


@contextmanager
def timed(
    stage: str, items: Sequence[TimedItem], share: Callable[[TimedItem], int], device: torch.device
) -> Iterator[None]:
    """Times the block once for all `items` and divides the seconds in proportion to `share`."""
    _settle(device)
    begun = time.perf_counter()
    yield
    _settle(device)
    seconds = time.perf_counter() - begun
    shares = [share(item) for item in items]
    if not any(shares):
        shares = [1] * len(items)
    for item, part in zip(items, shares, strict=True):
        item.seconds[stage] = item.seconds.get(stage, 0.0) + seconds * part / sum(shares)


def _settle(device: torch.device) -> None:
    """A GPU works on after a call returns: its time is only known once it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
