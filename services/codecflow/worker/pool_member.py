"""Members of a sampler pool: the process that works there now, or this one, and what it is given and has done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from .lane import Lane
from .sampler_host import SamplerProcess
from .sampler_process import Allow, Command, Gate, Turn, Turns


class Link(Protocol):
    """To where samplers work: a SamplerProcess, or this process itself. `free`: whether it takes commands now."""

    @property
    def free(self) -> bool: ...

    def fileno(self) -> int: ...

    def send(self, commands: list[Command]) -> None: ...

    def receive(self) -> Iterable[Turn]: ...


class Here:
    """Samplers in this process: commands are worked off at once."""

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


class Apart:
    """Samplers in a process of their own."""

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
    """The process that works there now, its lanes, and what it has done."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.link: Link | None = None
        """None while it is waited with, after it has ended too soon."""
        self.lanes: dict[int, Lane] = {}
        self.ready: dict[int, Lane] = {}
        """Lanes with events that it was not given yet, in turn."""
        self.commands: list[Command] = []
        self.allowed = Allow(Gate.OPEN)
        self.busy_s = self.cpu_s = 0.0
        self.memory = 0
        self.began_at = self.begin_at = 0.0
        self.pause_s = 0.0
        self.progress = (0, 0, 0.0)
        """What it was at when it was looked at last."""
        self.stuck = False
        """It was ended because it took too long."""
