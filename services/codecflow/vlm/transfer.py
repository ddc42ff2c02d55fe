"""Asynchronous copies to a model's device, and stage timing that is read once a step is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Owner = TypeVar("Owner")


def to_device(values: npt.NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """A copy on `device`, or the values themselves if they are there already. For a GPU it is an asynchronous copy from
    pinned memory: a plain copy would block the host until all queued work is done."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class StageClock(Generic[Owner]):
    """Times stages of work on a device. On a GPU it records events in the stream, so that the host does not have to wait
    between stages."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._measured: list[tuple[str, list[tuple[Owner, int]], Any, Any]] = []

    @contextmanager
    def stage(self, name: str, owners: Sequence[Owner], share: Callable[[Owner], int]) -> Iterator[None]:
        """Times the block for all owners together. The time is divided in proportion to `share`, called after the block."""
        begun = self._now()
        yield
        self._measured.append((name, [(owner, share(owner)) for owner in owners], begun, self._now()))

    def read(self) -> Iterator[tuple[Owner, str, float]]:
        """(owner, stage, seconds) of everything timed since the last call. Waits for the device."""
        if self._gpu and self._measured:
            self._measured[-1][3].synchronize()
        for name, shares, begun, ended in self._measured:
            seconds = begun.elapsed_time(ended) / 1000 if self._gpu else ended - begun
            whole = sum(share for _, share in shares)
            for owner, share in shares:
                yield owner, name, seconds * (share / whole if whole else 1 / len(shares))
        self._measured = []

    def _now(self) -> Any:
        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
