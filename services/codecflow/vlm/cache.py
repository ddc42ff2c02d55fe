"""Keys and values: one preallocated buffer a stream, and the cache object that transformers' text models write through."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig

from codecflow.errors import ModelError


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token takes in the cache of one text model."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> KVShape:
        """From a text model's configuration."""
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        return KVShape(config.num_hidden_layers, kv_heads, head_dim, dtype, device)

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


class Memory:
    """Bytes that the streams' buffers may take together. Asked before anything is allocated."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.used = 0

    def claim(self, stream: str, size: int) -> None:
        """Takes `size` bytes more for `stream`. Raises ModelError, naming it, when they are not there."""
        if self.limit is not None and self.used + size > self.limit:
            free = (self.limit - self.used) / 2**20
            raise ModelError(
                f"stream {stream!r} does not fit: its window needs {size / 2**20:,.1f} MiB of {free:,.1f} MiB left;"
                " shorten the window, set fewer kv tokens a stream, or give it to another worker"
            )
        self.used += size

    def release(self, size: int) -> None:
        self.used -= size


class StreamBuffers:
    """`keys`, `values`: (layers, kv_heads, capacity, head_dim), allocated once; grown only when questions outgrow it.

    `beside`: bytes that the stream may hold beside them. They are claimed, but not allocated, here.
    """

    def __init__(self, stream: str, shape: KVShape, capacity: int, memory: Memory, beside: int = 0) -> None:
        self.stream = stream
        self.shape = shape
        self.memory = memory
        self.beside = beside
        memory.claim(stream, capacity * shape.bytes_per_token + beside)
        self.keys, self.values = self._allocate(capacity)

    def _allocate(self, capacity: int) -> tuple[Tensor, Tensor]:
        size = (self.shape.layers, self.shape.kv_heads, capacity, self.shape.head_dim)
        new = [torch.zeros(size, dtype=self.shape.dtype, device=self.shape.device) for _ in range(2)]
        return new[0], new[1]

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        return self.capacity * self.shape.bytes_per_token

    def grow(self, capacity: int, start: int, stop: int) -> None:
        """Makes room for `capacity` tokens and moves slots [start, stop) to the front."""
        self.memory.claim(self.stream, (capacity - self.capacity) * self.shape.bytes_per_token)
        keys, values = self._allocate(capacity)
        keys[:, :, : stop - start] = self.keys[:, :, start:stop]
        values[:, :, : stop - start] = self.values[:, :, start:stop]
        self.keys, self.values = keys, values

    def to_front(self, start: int, stop: int) -> None:
        """Moves slots [start, stop) to the front, layer by layer so that little memory is needed beside it."""
        for buffer in (self.keys, self.values):
            for layer in buffer:
                layer[:, : stop - start] = layer[:, start:stop].clone()

    def release(self) -> None:
        self.memory.release(self.nbytes + self.beside)


@dataclass(frozen=True, slots=True)
class Write:
    """Packed tokens [start, stop) go to one stream's slots: those from `slot` on, or those that `slot` (tokens,) lists."""

    start: int
    stop: int
    buffers: StreamBuffers
    slot: int | Tensor


class PackedCache(Cache):
    """Given to a text model for one forward: puts each layer's new keys and values where the plan says."""

    def __init__(self, writes: list[Write]) -> None:
        super().__init__(layers=[])
        self.writes = writes

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """`key_states`, `value_states`: (1, kv_heads, tokens, head_dim). Attention reads the buffers, not the return."""
        for write in self.writes:
            to, count = write.slot, write.stop - write.start
            slots = slice(to, to + count) if isinstance(to, int) else to
            write.buffers.keys[layer_idx, :, slots] = key_states[0, :, write.start : write.stop]
            write.buffers.values[layer_idx, :, slots] = value_states[0, :, write.start : write.stop]
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions are always given, so no length is ever derived from the cache."""
        return 0


class ProbedError(Exception):
    """Not an error: ends a forward of `ProbeCache` as soon as the second layer's keys and values are known."""


class ProbeCache(PackedCache):
    """Leaves the buffers alone and keeps what the second layer would write: the first whose keys depend on context."""

    def __init__(self) -> None:
        super().__init__([])
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if layer_idx == 1:
            self.keys, self.values = key_states[0], value_states[0]
            raise ProbedError
        return key_states, value_states


def cache_keyword(text_model: nn.Module) -> str:
    """What this release of transformers calls the cache: renamed from `past_key_values` to `cache` between 5.17 and 5.24."""
    parameters = inspect.signature(inspect.unwrap(type(text_model).forward)).parameters
    return "cache" if "cache" in parameters else "past_key_values"
