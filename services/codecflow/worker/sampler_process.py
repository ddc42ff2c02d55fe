"""A sampler process: the samplers of some streams, scheduled in turns on its one thread.

It starts empty, receives its settings with the first message, and sends back the output of each turn. It ends with the
worker: when the channel is closed, or killed by the kernel together with the process that forked it (sampler_host.py).
"""

from __future__ import annotations

import os
import struct
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from mmap import mmap

from codecflow.messages import ResultError, StreamState, Zone

from .channel import Channel
from .sampler import Sampler
from .sampler_events import Event, Fault, Recovery, Sampling
from .windows import Step

_QUANTUM_S = 0.02
"""How long a turn lasts while other streams wait."""
_MEMORY_EVERY_S = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Gate(Enum):
    """How much samplers may do: everything; only the stream nearest to closing its window (sampled frames fill the memory,
    and only a closed window can free any); nothing (the engine will free some)."""

    OPEN = "open"
    ONE = "one"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Open:
    """Start a stream's sampler, for queue number `queue`."""

    queue: int
    stream: str
    resume: StreamState | None
    recovery: Recovery | None = None
    zones: tuple[Zone, ...] = ()


@dataclass(frozen=True, slots=True)
class Push:
    """The next events of a queue."""

    queue: int
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class Drop:
    """Close a queue and discard its events."""

    queue: int


@dataclass(frozen=True, slots=True)
class Allow:
    """What may run from now on; with Gate.ONE only `queue`, until it has closed a window."""

    gate: Gate
    queue: int = 0


Command = Sampling | Open | Push | Drop | Allow


@dataclass(frozen=True, slots=True)
class Turn:
    """Output of one queue in one turn, in order.

    `events`: how many were processed; `counts`: what the sampler counted meanwhile; `held_bytes`: what it holds now.
    `busy_s`, `cpu_s`: time used by the turn. `memory`: bytes that the process has allocated since it started, reported
    occasionally.
    """

    queue: int
    events: int
    steps: Sequence[Step]
    counts: Counter[str]
    faults: Sequence[Fault]
    trouble: ResultError | None
    held_bytes: int
    busy_s: float
    cpu_s: float
    memory: int | None = None


class Progress:
    """What a sampler process is doing, in memory shared with its worker, which reads it when the process has ended or hangs:
    queue (0: none), number of the event in its queue, and since when in monotonic seconds (0: it has not started)."""

    SIZE = 24
    _layout = struct.Struct("<QQd")

    def __init__(self, memory: mmap | bytearray) -> None:
        self._memory = memory

    def begin(self, queue: int, event: int) -> None:
        self._write(queue, event)

    def end(self) -> None:
        self._write(0, 0)

    def _write(self, queue: int, event: int) -> None:
        # Not pack_into: it first zeroes the memory, which the worker could see.
        self._memory[: self.SIZE] = self._layout.pack(queue, event, time.monotonic())

    def read(self) -> tuple[int, int, float]:
        """While the process runs, only two equal reads can be trusted."""
        queue, event, since = self._layout.unpack_from(self._memory)
        return queue, event, since


class _ScheduledSampler:
    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.events: deque[Event] = deque()
        self.done = 0


class Turns:
    """Schedules queues in turns: the one that has waited longest runs for up to 20 ms, so that a stream with costly pictures
    delays the others as little as possible."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or Progress(bytearray(Progress.SIZE))
        self._sampling: Sampling | None = None
        self._samplers: dict[int, _ScheduledSampler] = {}
        self._ready: deque[int] = deque()
        self._allowed = Allow(Gate.OPEN)
        self._memory_at = 0.0
        self._memory_before = _own_memory()

    def take(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Push():
                    entry = self._samplers[command.queue]
                    if not entry.events:
                        self._ready.append(command.queue)
                    entry.events.extend(command.events)
                case Open():
                    assert self._sampling is not None  # the first command
                    sampler = Sampler(command.stream, self._sampling, command.resume, command.recovery, command.zones)
                    self._samplers[command.queue] = _ScheduledSampler(sampler)
                case Drop():
                    del self._samplers[command.queue]
                    if command.queue in self._ready:
                        self._ready.remove(command.queue)
                case Allow():
                    self._allowed = command
                case Sampling():
                    self._sampling = command

    @property
    def waiting(self) -> bool:
        """Whether a queue is ready."""
        gate = self._allowed.gate
        return bool(self._ready) and (gate is Gate.OPEN or (gate is Gate.ONE and self._allowed.queue in self._ready))

    def turn(self) -> Turn:
        """Run the next turn. Only if `waiting`."""
        if self._allowed.gate is Gate.OPEN:
            number = self._ready.popleft()
        else:
            self._ready.remove(number := self._allowed.queue)
        entry, steps, events = self._samplers[number], list[Step](), 0
        sampler, progress = entry.sampler, self._progress
        cpu_s, began = time.thread_time(), time.monotonic()
        while entry.events:
            progress.begin(number, entry.done)
            steps += sampler.push(entry.events.popleft())
            entry.done += 1
            events += 1
            if time.monotonic() > began + _QUANTUM_S:
                break
        progress.end()
        if entry.events:
            self._ready.append(number)
        if self._allowed.gate is Gate.ONE and any(step.window is not None for step in steps):
            self._allowed = Allow(Gate.CLOSED)
        counts, sampler.counts = sampler.counts, Counter()
        faults, sampler.faults = sampler.faults, []
        now = time.monotonic()
        return Turn(
            number,
            events,
            steps,
            counts,
            faults,
            sampler.trouble,
            sampler.held_bytes,
            now - began,
            time.thread_time() - cpu_s,
            self._memory(now),
        )

    def _memory(self, now: float) -> int | None:
        if now < self._memory_at + _MEMORY_EVERY_S:
            return None
        self._memory_at = now
        return max(0, _own_memory() - self._memory_before)


def _own_memory() -> int:
    """Bytes of this process's memory that are not backed by a file."""
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * _PAGE


def serve(channel: Channel, progress: Progress) -> None:
    """Run until the worker closes the channel."""
    turns = Turns(progress)
    try:
        while True:
            while (commands := channel.receive()) is not None:
                turns.take(commands)
                progress.end()
            if turns.waiting:
                channel.send(turns.turn())
                while not channel.flush():
                    channel.wait(to_send=True)
            else:
                channel.wait()
    except EOFError:
        return
