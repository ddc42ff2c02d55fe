"""Asynchronous copies to a model's device, and stage timing that is read once a step is done.

A copy takes the host some 30 us, however few bytes it moves. So small arrays travel together in one buffer, a parcel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Owner = TypeVar("Owner")

Array = npt.NDArray[Any]

_ALIGNED = 16
"""Arrays in a parcel begin at multiples of this many bytes, so that each can be viewed in its own type."""
_KINDS = {np.dtype(kind): torch.from_numpy(np.empty(0, kind)).dtype for kind in (np.int32, np.int64, np.float32)}


def to_device(values: Array | Tensor, device: torch.device) -> Tensor:
    """A copy on `device`, or the values themselves if they are there already. For a GPU it is an asynchronous copy from
    pinned memory: a plain copy would block the host until all queued work is done."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def all_to_device(values: Sequence[Array | Tensor], device: torch.device) -> list[Tensor]:
    """`to_device` of several arrays or CPU tensors, int32, int64 or float32, in one copy."""
    if device.type != "cuda":
        return [to_device(own, device) for own in values]
    arrays = [own.numpy() if isinstance(own, Tensor) else own for own in values]
    parcel = _Parcel([(own.shape, own.dtype) for own in arrays])
    host = torch.empty(parcel.nbytes, dtype=torch.uint8, pin_memory=True)
    for place, own in zip(parcel.arrays(host), arrays, strict=True):
        place[...] = own
    return parcel.tensors(host.to(device, non_blocking=True))


class FixedInputs:
    """Arrays of fixed shapes on a device, all overwritten by one copy. `shapes`: shape and dtype (int32, int64 or float32)
    by name."""

    def __init__(self, shapes: Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]], device: torch.device) -> None:
        self._names = list(shapes)
        self._parcel = _Parcel([(shape, np.dtype(kind)) for shape, kind in shapes.values()])
        self._buffer = torch.zeros(self._parcel.nbytes, dtype=torch.uint8, device=device)
        self.tensors = dict(zip(self._names, self._parcel.tensors(self._buffer), strict=True))

    @contextmanager
    def written(self) -> Iterator[dict[str, Array]]:
        """The arrays on the host, to write; copied at the end. What is not written is undefined."""
        host = torch.empty(self._parcel.nbytes, dtype=torch.uint8, pin_memory=self._buffer.is_cuda)
        yield dict(zip(self._names, self._parcel.arrays(host), strict=True))
        self._buffer.copy_(host, non_blocking=True)


class _Parcel:
    """Where arrays of several shapes lie in one buffer of `nbytes`."""

    def __init__(self, shapes: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        self._places: list[tuple[slice, tuple[int, ...], np.dtype[Any]]] = []
        self.nbytes = 0
        for shape, kind in shapes:
            stop = self.nbytes + prod(shape) * kind.itemsize
            self._places.append((slice(self.nbytes, stop), shape, kind))
            self.nbytes = -(-stop // _ALIGNED) * _ALIGNED

    def arrays(self, buffer: Tensor) -> list[Array]:
        whole = buffer.numpy()
        return [whole[place].view(kind).reshape(shape) for place, shape, kind in self._places]

    def tensors(self, buffer: Tensor) -> list[Tensor]:
        return [buffer[place].view(_KINDS[kind]).view(shape) for place, shape, kind in self._places]


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
