"""CUDA graphs: one launch in place of several hundred.

A forward over few tokens is limited by the host, which needs longer to launch its kernels than the GPU to run them: one
stream alone, decoding text, a small model. A CUDA graph replays recorded kernels at once, but always with the same sizes and
addresses. So the inputs of a forward are copied into fixed buffers and padded to the next of a few sizes, its *bucket*, and
there is one graph per bucket. A bucket is recorded when it occurs for the second time.

Users: decoder_graphs.py, encoder_graphs.py. On a CPU the padded forward runs without a graph, so that tests cover it.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codecflow.vlm.kernels import Sequences
from codecflow.vlm.transfer import Array

_logger = logging.getLogger("codecflow.engine")

GRAPHS = 48
"""Maximum number of graphs per cache; the least recently used one is replaced."""

HOST_BOUND = 16e12
"""Tokens times parameters up to which launching some 400 kernels takes a host longer (20 to 50 ms) than a data-centre GPU
needs to run them (2 FLOPs for each, at 700 TFLOP/s)."""

Shapes = dict[str, tuple[tuple[int, ...], npt.DTypeLike]]
"""Of the inputs in a FixedInputs."""

Bucket = TypeVar("Bucket", bound=Hashable)
Buffers = TypeVar("Buffers")


@dataclass(slots=True)
class Graph(Generic[Buffers]):
    """The buffers of a bucket and, once it is recorded, the graph that reads them, and its result."""

    buffers: Buffers
    recorded: torch.cuda.CUDAGraph | None = None
    result: Tensor | None = None


class GraphCache(Generic[Bucket, Buffers]):
    """Graphs by bucket, for layers with `weights`. Users run forwards of `limit` rows and more launch by launch; `most_rows`
    is its maximum."""

    def __init__(self, device: torch.device, weights: Iterable[Tensor], most_rows: int) -> None:
        self._device = device
        self._gpu = device.type == "cuda"
        self._graphs: OrderedDict[Bucket, Graph[Buffers]] = OrderedDict()
        self._seen: Counter[Bucket] = Counter()
        self._memory = torch.cuda.graph_pool_handle() if self._gpu else None
        self.limit = int(min(most_rows, HOST_BOUND / max(1, sum(weight.numel() for weight in weights))))
        self.replays = 0
        """Forwards from a graph so far."""
        self.launched = 0
        """Forwards so far that would have been faster from a graph, but whose bucket had none yet."""

    def __len__(self) -> int:
        return len(self._graphs)

    def find(self, bucket: Bucket, buffers: Callable[[], Buffers]) -> Graph[Buffers] | None:
        """None if the forward is to run as it is, because the bucket occurs for the first time."""
        graph = self._graphs.get(bucket)
        if graph is None or graph.recorded is None:
            self.launched += 1
        if graph is None:
            self._seen[bucket] += 1
            if self._seen[bucket] < 2 and self._gpu:
                return None
            graph = self._graphs[bucket] = Graph(buffers())
            if len(self._graphs) > GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(bucket)
        return graph

    def run(self, graph: Graph[Buffers], compute: Callable[[], Tensor]) -> Tensor:
        """The result of `compute`, which reads the graph's buffers. The next run overwrites it."""
        if graph.recorded is not None:
            assert graph.result is not None
            graph.recorded.replay()
            self.replays += 1
            return graph.result
        result = compute()
        if self._gpu:  # after a first run with these sizes, which compiles what is compiled on demand
            self._record(graph, compute)
        return result

    def _record(self, graph: Graph[Buffers], compute: Callable[[], Tensor]) -> None:
        recorded, now = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(now)
        try:
            with torch.cuda.stream(side):
                recorded.capture_begin(pool=self._memory, capture_error_mode="thread_local")
                try:
                    graph.result = compute()
                finally:
                    recorded.capture_end()
        except RuntimeError as error:  # out of memory, or a kernel that cannot be recorded
            _logger.warning("no CUDA graphs, small steps are slower: %s", str(error).partition("\n")[0])
            self.limit = 0
            self._graphs.clear()
            return
        now.wait_stream(side)
        graph.recorded = recorded


def stepped(count: int) -> int:
    """The next of eight sizes per doubling: at most an eighth is padding, and nothing below eight."""
    step = max(8, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def coarse(count: int) -> int:
    """The next of four sizes per doubling."""
    step = max(16, 1 << max(0, count.bit_length() - 3))
    return -(-count // step) * step


def power(count: int, least: int) -> int:
    return max(least, 1 << (count - 1).bit_length())


def pad(into: Array, values: Array | Tensor | Sequence[int], padding: int) -> None:
    """Copies `values` into the first rows and sets the others to `padding`."""
    into[: len(values)] = values
    into[len(values) :] = padding


def sequence_shapes(name: str, count: int) -> Shapes:
    """The inputs of `count` sequences, for `fixed_sequences` and `fill_sequences`."""
    return {
        f"{name} ends": ((count + 1,), np.int32),
        f"{name} starts": ((count + 1,), np.int32),
        f"{name} lengths": ((count,), np.int32),
    }


def fixed_sequences(tensors: Mapping[str, Tensor], name: str, longest: int, keys: int) -> Sequences:
    """`longest`: queries of a sequence at most; `keys`: all that can be read."""
    ends, starts, lengths = (tensors[f"{name} {part}"] for part in ("ends", "starts", "lengths"))
    return Sequences(ends, starts, lengths, longest, keys)


def fill_sequences(into: Mapping[str, Array], name: str, given: Sequences, queries: int) -> None:
    """The queries of padding are one sequence that sees as many keys, the others have no queries. `given`: on the CPU."""
    ends, starts, lengths = (into[f"{name} {part}"] for part in ("ends", "starts", "lengths"))
    count = len(given.lengths)
    pad(ends, given.ends, queries)
    pad(starts, given.starts, 0)
    pad(lengths, given.lengths, 1)
    lengths[count] = queries - ends[count]
