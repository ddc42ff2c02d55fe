"""The KV pool of all streams, allocated in pages, and the cache object through which text models write to it.

A page holds PAGE tokens of every layer. A window is a list of pages (window.py), so a stream takes only what its tokens
need, and tokens that leave return their pages at once. On the CPU the pool's memory is reserved when the engine starts, but
the system commits it only as pages are first written.
"""

from __future__ import annotations

import inspect
import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig

from codecflow.errors import ModelError
from codecflow.vlm.kv_tensor import E4M3, SCALE_BYTES, KVTensor

PAGE = 16
"""Tokens per page. A stream wastes at most two partial pages, one at each end of its window: 0.3 % of 5,000 tokens on
average. Larger pages are not gathered faster (docs/decisions/022-the-kv-pool.md)."""

_KEPT_FREE = {
    "cuda": 0.25,
    "cpu": 0.5,
}  # share of the free memory that stays free: for activations, and on the CPU for other processes


@dataclass(frozen=True, slots=True)
class KVShape:
    """Cache size of one token in one text model. `eight_bit`: stored as e4m3 with a scale per token and head."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    eight_bit: bool = False

    @staticmethod
    def of(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> KVShape:
        """From a text model's configuration."""
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        return KVShape(config.num_hidden_layers, kv_heads, head_dim, dtype, device)

    @property
    def bytes_per_token(self) -> int:
        head = self.head_dim * E4M3.itemsize + SCALE_BYTES if self.eight_bit else self.head_dim * self.dtype.itemsize
        return 2 * self.layers * self.kv_heads * head


class KVPool:
    """`keys`, `values`: of all layers and slots, allocated once, zero-filled (a kernel may read a slot that it masks, and
    must find a finite number there). Slot `s` belongs to page `s // PAGE`.

    `memory_bytes`: limit of the pool; None: `spare_memory`. `feature_bytes`: bytes per token that streams may hold outside
    the pool; they count against `memory_bytes` too. Raises ModelError when not even one page fits.
    """

    def __init__(self, shape: KVShape, memory_bytes: int | None = None, feature_bytes: int = 0) -> None:
        self.shape = shape
        limit = spare_memory(shape.device) if memory_bytes is None else memory_bytes
        self.pages = limit // (PAGE * (shape.bytes_per_token + feature_bytes))
        if self.pages < 1:
            raise ModelError(
                f"memory of {limit / 2**20:,.1f} MiB is less than one page of {PAGE} tokens, which takes"
                f" {PAGE * shape.bytes_per_token / 2**20:,.1f} MiB"
            )
        self.keys, self.values = self._allocate(), self._allocate()
        self._returned: list[int] = []  # a stack: the most recently used page is reused first
        self._touched = 0  # pages from here on have never been used
        self.peak = 0
        """Maximum number of pages held so far."""

    def _allocate(self) -> KVTensor:
        shape = self.shape
        heads = (shape.layers, (self.pages + 1) * PAGE, shape.kv_heads)
        kind = torch.uint8 if shape.eight_bit else shape.dtype
        scales = self._zeros(heads, torch.float32) if shape.eight_bit else None
        return KVTensor(self._zeros((*heads, shape.head_dim), kind), scales, shape.dtype)

    def _zeros(self, size: tuple[int, ...], kind: torch.dtype) -> Tensor:
        shape = self.shape
        if shape.device.type != "cpu":
            try:
                return torch.zeros(size, dtype=kind, device=shape.device)
            except torch.OutOfMemoryError:
                raise ModelError(
                    f"a pool of {self.nbytes / 2**20:,.1f} MiB for keys and values does not fit on {shape.device}; use less"
                ) from None
        try:
            reserved = mmap.mmap(-1, math.prod(size) * kind.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError):
            raise ModelError(
                f"a pool of {self.nbytes / 2**20:,.1f} MiB for keys and values cannot be reserved"
            ) from None
        return torch.frombuffer(reserved, dtype=kind).view(size)

    @property
    def scratch(self) -> int:
        """A page beyond those of the streams: rows of padding are written there."""
        return self.pages

    @property
    def page_bytes(self) -> int:
        return PAGE * self.shape.bytes_per_token

    @property
    def nbytes(self) -> int:
        return self.pages * self.page_bytes

    @property
    def free(self) -> int:
        """Number of free pages."""
        return len(self._returned) + self.pages - self._touched

    def take(self, pages: int) -> list[int]:
        """Raises ModelError when fewer are free: callers check `free` first."""
        if pages > self.free:
            raise ModelError(f"{pages} pages of keys and values are needed, {self.free} are free")
        again = min(pages, len(self._returned))
        taken = [self._returned.pop() for _ in range(again)]
        taken += range(self._touched, self._touched + pages - again)
        self._touched += pages - again
        self.peak = max(self.peak, self.pages - self.free)
        return taken

    def give(self, pages: Sequence[int]) -> None:
        self._returned.extend(reversed(pages))

    def gather(self, layer: int, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer on `pages` (pages,), concatenated: (pages * PAGE, kv_heads, head_dim) each,
        contiguous."""
        return self.keys.read_pages(layer, pages, PAGE), self.values.read_pages(layer, pages, PAGE)

    def read(self, slots: Tensor, layers: int | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Keys and values at `slots` (tokens,): (layers, tokens, kv_heads, head_dim) each; one layer: without the first
        axis."""
        return self.keys.read(layers, slots), self.values.read(layers, slots)

    def write(self, slots: Tensor, keys: Tensor, values: Tensor, layers: int | slice = slice(None)) -> None:
        """Shapes as returned by `read`."""
        self.keys.write(layers, slots, keys)
        self.values.write(layers, slots, values)

    def check_integrity(self, held: Sequence[Sequence[int]]) -> None:
        """Checks that pages are conserved: each page is either free or `held`, exactly once."""
        everything = sorted([*self._returned, *(page for pages in held for page in pages)])
        assert everything == list(range(self._touched)), (
            f"{self.free} pages are free and {sum(map(len, held))} held of {self.pages}, or one is held twice"
        )


class PoolCache(Cache):
    """Receives each layer's new keys and values in one forward of a text model and writes them to `slots` (tokens,)."""

    def __init__(self, pool: KVPool, slots: Tensor) -> None:
        super().__init__(layers=[])
        self.pool = pool
        self.slots = slots

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """transformers' cache interface. `key_states`, `value_states`: (1, kv_heads, tokens, head_dim). Attention reads the
        pool, not the return value."""
        self.put(layer_idx, key_states[0].transpose(0, 1), value_states[0].transpose(0, 1))
        return key_states, value_states

    def put(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """`keys`, `values`: (tokens, kv_heads, head_dim)."""
        self.pool.write(self.slots, keys, values, layer)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions are always passed explicitly, so no length is derived from the cache."""
        return 0


class ProbedError(Exception):
    """Not an error: ends a forward of `ProbeCache` once the second layer's keys and values are known."""


class ProbeCache(PoolCache):
    """Does not write to the pool. Keeps the second layer's keys and values: the first that depend on context."""

    keys: Tensor | None = None
    values: Tensor | None = None

    def put(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if layer == 1:
            self.keys, self.values = keys, values
            raise ProbedError


def cache_keyword(text_model: nn.Module) -> str:
    """The name of the cache argument in this transformers release: `past_key_values` became `cache` between 5.17 and
    5.24."""
    parameters = inspect.signature(inspect.unwrap(type(text_model).forward)).parameters
    return "cache" if "cache" in parameters else "past_key_values"


def spare_memory(device: torch.device) -> int:
    """Default size of a pool in bytes, once the weights are loaded: three quarters of the free memory of a GPU; on the CPU,
    half of the free memory of the machine (or of its container)."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for reuse is not free to the driver
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = min(_free_on_machine(), _free_in_container())
    return int(free * (1 - _KEPT_FREE["cuda" if device.type == "cuda" else "cpu"]))


def _free_on_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_in_container() -> int:
    """Free memory within the cgroup v2 limit of the container; no bound without a limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such files, or "max"
        return 2**63
