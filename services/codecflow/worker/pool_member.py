"""Members of a sampler pool: the current process (or this one), its input and its output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from .sampler_host import SamplerProcess
from .sampler_process import Allow, Command, Gate, Turn, Turns
from .stream_queue import StreamQueue


class Link(Protocol):
    """Connection to where samplers run: a SamplerProcess, or this process itself. `free`: whether it takes commands now."""

    @property
    def free(self) -> bool: ...

    def fileno(self) -> int: ...

    def send(self, commands: list[Command]) -> None: ...

    def receive(self) -> Iterable[Turn]: ...


class LocalLink:
    """Samplers in this process: commands are executed immediately."""

    free = True

    def __init__(self) -> None:
        self._turns = Turns()
        self._out: list[Turn] = []

    def send(self, commands: list[Command]) -> None:
        self._turns.take(commands)
        while self._turns.waiting:
            self._out.append(self._turns.turn())

    def receive(self) -> Iterable[Turn]:
        out, self._out = self._out, []
        return out

    def fileno(self) -> int:
        return -1


class ProcessLink:
    """Samplers in a separate process."""

    def __init__(self, process: SamplerProcess) -> None:
        self.process = process

    @property
    def free(self) -> bool:
        return self.process.channel.flush()

    def send(self, commands: list[Command]) -> None:
        self.process.channel.send(commands)

    def receive(self) -> Iterable[Turn]:
        while (turn := self.process.channel.receive()) is not None:
            yield turn

    def fileno(self) -> int:
        return self.process.channel.fileno()


class Member:
    """The current process, its queues, and its statistics."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.link: Link | None = None
        """None during the delay after it has ended too soon."""
        self.queues: dict[int, StreamQueue] = {}
        self.ready: dict[int, StreamQueue] = {}
        """Lanes with events not sent yet, in turn."""
        self.commands: list[Command] = []
        self.allowed = Allow(Gate.OPEN)
        self.busy_s = self.cpu_s = 0.0
        self.memory = 0
        self.began_at = self.begin_at = 0.0
        self.pause_s = 0.0
        self.progress = (0, 0, 0.0)
        """What it was doing at the last check."""
        self.stuck = False
        """It was killed because it took too long."""
