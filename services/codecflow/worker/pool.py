"""The sampler pool: the samplers of all streams, in processes of their own.

Decoding, masks and resizing take and give back Python's interpreter lock many times per frame. In threads they would contend
for it with each other, the join, the engine and the committer; in processes each has its own. (docs/decisions/024.)

A stream belongs to one process, the one with least to do when it begins, since what its sampler knows (a decoder, masks,
open windows) lies there; its events are worked off in order, so results do not depend on the number of processes. The lane
of a stream keeps its events until the process has answered for them, and hands it a bounded part of them ahead.

A process that ends, by a fault in a decoder or killed from outside, is replaced. Its streams go on in the new one where
the newest step left off, at their next keyframe: what its samplers knew is lost, frames of the windows that were open are
missing in them, and windows are marked as restarted. The stream whose picture was at fault is set aside for a while, and
then goes on in a process for such streams alone. What was handed on before is unaffected, so nothing is emitted twice.

The caller bounds what is queued (`queued_bytes`); the pool bounds what it makes of it, through the gate.
"""

from __future__ import annotations

import select
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from codecflow.logs import Notice
from codecflow.messages import ResultError, StreamState, Zone

from . import sampler_host
from .join import Joined
from .sampler import Event, Fault, Recovery, Sampling, SetZones, Thin
from .sampler_host import SamplerProcess, SamplersError
from .sampler_process import Allow, Command, Drop, Gate, Open, Push, Turn, Turns
from .windows import Step

_EVENT_BYTES = 500
"""Taken for an event itself, beside its picture."""
_AHEAD_BYTES = 1 << 20
"""Of each lane, what its process is given before it has answered for what it was given before."""
_KNOWN_AFTER_S = 5.0
"""A stream's share of a process is known once it was open for this long."""
_RETRY_S = (1, 64)
"""How long a stream is set aside after its picture has ended a process, at first and at most."""
_RESTART_S = (0.25, 30.0)
"""How long a process that has ended soon after it began is waited for, at first and at most."""
_SOON_S = 10.0
_MOST_USELESS = 5
"""Processes in a row that ended before they could be told anything: they cannot work here."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What came out of one lane in one go, in order. `events`: how many were worked off; `counts`: what the sampler counted
    meanwhile."""

    lane: Lane
    events: int
    steps: Sequence[Step]
    counts: Counter[str]
    faults: Sequence[Fault]
    trouble: ResultError | None


class Lane:
    """One stream's place in a pool. `held_bytes`: sampled frames in its open window. `queued_bytes`: what waits to be
    sampled."""

    def __init__(
        self, number: int, stream: str, state: StreamState | None, zones: tuple[Zone, ...], worker: _Worker
    ) -> None:
        self.stream = stream
        self.queued_bytes = 0
        self.held_bytes = 0
        self.unfinished = 0
        """Events that were pushed, and whose outcome was not taken from the pool yet. Its owner's to read."""
        self.closed = False
        self.number, self.worker = number, worker
        self.waiting: deque[tuple[Event, int]] = deque()
        self.given: deque[tuple[Event, int]] = deque()
        """To its process, which has not answered for them yet."""
        self.given_bytes = 0
        self.done = 0
        """Events that the process has answered for, since the lane was opened there."""
        self.state = state
        """After the newest step."""
        self.thin = False
        self.zones = zones
        """The newest that its sampler was told of."""
        self.trouble: ResultError | None = None
        self.cpu_s = 0.0
        self.opened_at = time.monotonic()
        self.recovery: Recovery | None = None
        self._failures = 0
        self._failed_at = 0.0

    def opening(self) -> Open:
        return Open(self.number, self.stream, self.state, self.recovery, self.zones)

    def fails(self, how: str) -> bool:
        """It was at work when its process ended. Whether that is its fault: not if the process was killed from outside, as
        by a system that is out of memory, unless that happens again."""
        now = time.monotonic()
        if now > self._failed_at + 2 * _RETRY_S[1]:
            self._failures = 0
        self._failures, self._failed_at = self._failures + 1, now
        return how != "SIGKILL" or self._failures > 1

    @property
    def retry_s(self) -> Fraction:
        """How long it is set aside for."""
        return Fraction(min(_RETRY_S[0] << min(self._failures - 1, 10), _RETRY_S[1]))

    def cost(self, now: float) -> float | None:
        """CPU seconds per second; None while that is not known."""
        since = now - self.opened_at
        return self.cpu_s / since if since > _KNOWN_AFTER_S else None


class _Link(Protocol):
    """To where samplers work: a SamplerProcess, or this process itself. `free`: whether it takes commands now."""

    @property
    def free(self) -> bool: ...

    def fileno(self) -> int: ...

    def send(self, commands: list[Command]) -> None: ...

    def receive(self) -> Iterable[Turn]: ...


class _Here:
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


class _Apart:
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


class _Worker:
    """One place of the pool: the process that is there now, its lanes, and what it has done."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.link: _Link | None = None
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


class SamplerPool:
    """Samplers in `processes` processes; with 0 in the caller's own, at once.

    All of it is for one thread, the owner's, and nothing here blocks. `say` is called with lines for people.
    `stuck_after_s`: how long a process may take for one event; longer, and it is killed and replaced.
    """

    def __init__(
        self,
        sampling: Sampling,
        processes: int,
        say: Callable[[str], None] = lambda line: None,
        stuck_after_s: float = 180.0,
    ) -> None:
        self.queued_bytes = 0
        self.deaths = 0
        """Processes that have ended and were replaced."""
        self._sampling, self._say, self._stuck_after_s = sampling, say, stuck_after_s
        self._apart = processes > 0
        self._gate = Gate.OPEN
        self._opened = 0
        self._out: deque[Sampled] = deque()
        self._useless = 0
        self._poll = select.poll()
        self._workers = [_Worker(number) for number in range(max(1, processes))]
        self._suspects: _Worker | None = None
        for worker in self._workers:
            self._begin(worker)

    @property
    def held_bytes(self) -> int:
        """Bytes of sampled frames in open windows."""
        return sum(lane.held_bytes for worker in self._workers for lane in worker.lanes.values())

    @property
    def queued(self) -> int:
        """Events that wait to be sampled."""
        lanes = [lane for worker in self._workers for lane in worker.lanes.values()]
        return sum(len(lane.waiting) + len(lane.given) for lane in lanes)

    @property
    def busy_s(self) -> list[float]:
        """Wall-clock seconds that each process was at work, but for what it is at now."""
        return [worker.busy_s for worker in self._workers]

    @property
    def cpu_s(self) -> list[float]:
        """CPU seconds of each process's work."""
        return [worker.cpu_s for worker in self._workers]

    @property
    def memory(self) -> int:
        """Bytes that the processes hold, but for what they have in common."""
        return sum(worker.memory for worker in self._workers)

    @property
    def processes(self) -> list[SamplerProcess]:
        """Those that run, or are about to."""
        return [worker.link.process for worker in self._workers if isinstance(worker.link, _Apart)]

    def open(self, stream: str, state: StreamState | None, zones: tuple[Zone, ...] = ()) -> Lane:
        """Begin a stream. `state`: how far it was answered before."""
        self._opened += 1
        lane = Lane(self._opened, stream, state, zones, self._least_loaded())
        self._place(lane)
        return lane

    def drop(self, lane: Lane) -> None:
        """Forget a lane and what waits in it. What it has handed on already is not given out by `take` any more."""
        lane.closed = True
        worker = lane.worker
        del worker.lanes[lane.number]
        worker.ready.pop(lane.number, None)
        worker.commands.append(Drop(lane.number))
        self.queued_bytes -= lane.queued_bytes
        for events in (lane.waiting, lane.given):
            events.clear()
        lane.queued_bytes = lane.given_bytes = lane.held_bytes = 0

    def push(self, lane: Lane, event: Event) -> None:
        """Give a lane its next event."""
        size = _EVENT_BYTES
        if isinstance(event, Joined) and event.picture is not None:
            size += len(event.picture.data)
        lane.unfinished += 1
        lane.waiting.append((event, size))
        lane.queued_bytes += size
        self.queued_bytes += size
        lane.worker.ready[lane.number] = lane
        if not self._apart:
            self._exchange(lane.worker)

    def gate(self, gate: Gate) -> None:
        if gate is not self._gate:
            self._gate = gate
            self._allow()
            if not self._apart:
                self._exchange(self._workers[0])

    def take(self) -> list[Sampled]:
        """What was sampled since the last call, and what goes on meanwhile: to be called often.

        Raises SamplersError when processes cannot be started.
        """
        # One system call, however many processes there are.
        heard = {file for file, _ in self._poll.poll(0)} if self._apart else None
        for worker in list(self._workers):
            if heard is not None:
                self._look_after(worker, heard)
            self._exchange(worker, heard)
        if self._gate is Gate.ONE:
            self._allow()
            for worker in self._workers:
                self._exchange(worker, heard)
        found = []
        while self._out:
            sampled = self._out.popleft()
            if not sampled.lane.closed:
                sampled.lane.unfinished -= sampled.events
                found.append(sampled)
        return found

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        for worker in self._workers:
            self._disconnect(worker)

    def _exchange(self, worker: _Worker, heard: Container[int] | None = None) -> None:
        """Hands a process what waits for it, and takes what it has done, unless nothing was `heard` of it."""
        if (link := worker.link) is None:
            return
        with suppress(EOFError):  # it has ended: _look_after sees to it
            if link.free:
                self._give(worker)
                if worker.commands:
                    commands, worker.commands = worker.commands, []
                    link.send(commands)
            if heard is None or link.fileno() in heard:
                for turn in link.receive():
                    self._done(worker, turn)

    def _give(self, worker: _Worker) -> None:
        for lane in list(worker.ready.values()):
            events = []
            while lane.waiting and (lane.given_bytes < _AHEAD_BYTES or not self._apart):
                event, size = item = lane.waiting.popleft()
                events.append(event)
                lane.given.append(item)
                lane.given_bytes += size
            if events:
                worker.commands.append(Push(lane.number, events))
            if not lane.waiting:
                del worker.ready[lane.number]

    def _done(self, worker: _Worker, turn: Turn) -> None:
        worker.busy_s += turn.busy_s
        worker.cpu_s += turn.cpu_s
        worker.memory = worker.memory if turn.memory is None else turn.memory
        if worker.allowed.gate is Gate.ONE and any(step.window is not None for step in turn.steps):
            worker.allowed = Allow(Gate.CLOSED)  # as the process has it by itself
        lane = worker.lanes.get(turn.lane)
        if lane is None:  # dropped
            return
        done = 0
        for _ in range(turn.events):
            event, size = lane.given.popleft()
            done += size
            if isinstance(event, Thin):
                lane.thin = event.on
            elif isinstance(event, SetZones):
                lane.zones = event.zones
        self._count(lane, done)
        lane.given_bytes -= done
        lane.done += turn.events
        lane.held_bytes = turn.held_bytes
        lane.cpu_s += turn.cpu_s
        lane.trouble = turn.trouble
        if turn.steps:
            lane.state = turn.steps[-1].state
        self._out.append(Sampled(lane, turn.events, turn.steps, turn.counts, turn.faults, turn.trouble))

    def _count(self, lane: Lane, done: int) -> None:
        lane.queued_bytes -= done
        self.queued_bytes -= done

    def _allow(self) -> None:
        """Tells processes what the gate lets them do."""
        chosen = None
        if self._gate is Gate.ONE:
            lanes = [lane for worker in self._workers for lane in worker.lanes.values() if lane.given or lane.waiting]
            chosen = max(lanes, key=lambda lane: lane.held_bytes, default=None)
        for worker in self._workers:
            allowed = Allow(self._gate)
            if self._gate is Gate.ONE:
                mine = chosen is not None and chosen.worker is worker
                allowed = Allow(Gate.ONE, chosen.number) if chosen is not None and mine else Allow(Gate.CLOSED)
            if allowed != worker.allowed:
                worker.allowed = allowed
                worker.commands.append(allowed)

    # --- processes that begin and end ----------------------------------------------------------------------------------

    def _begin(self, worker: _Worker) -> None:
        """A new process in this place, with samplers for its lanes."""
        if self._apart:
            process = sampler_host.start()
            worker.link = _Apart(process)
            for file in (process.channel.fileno(), process.notes):
                self._poll.register(file, select.POLLIN)
        else:
            worker.link = _Here()
        worker.began_at = time.monotonic()
        worker.stuck = False
        worker.commands = [self._sampling, *(lane.opening() for lane in worker.lanes.values())]
        if worker.allowed.gate is not Gate.OPEN:
            worker.commands.append(worker.allowed)

    def _place(self, lane: Lane) -> None:
        worker = lane.worker
        worker.lanes[lane.number] = lane
        worker.commands.append(lane.opening())
        if lane.waiting:
            worker.ready[lane.number] = lane

    def _least_loaded(self) -> _Worker:
        now = time.monotonic()
        costs = {lane: lane.cost(now) for worker in self._workers for lane in worker.lanes.values()}
        known = [cost for cost in costs.values() if cost is not None]
        typical = sum(known) / len(known) if known else 1.0

        def load(worker: _Worker) -> float:
            return sum(typical if (cost := costs[lane]) is None else cost for lane in worker.lanes.values())

        return min((worker for worker in self._workers if worker is not self._suspects), key=load)

    def _disconnect(self, worker: _Worker) -> None:
        if isinstance(link := worker.link, _Apart):
            for file in (link.process.channel.fileno(), link.process.notes):
                self._poll.unregister(file)
            link.process.close()
        worker.link = None

    def _look_after(self, worker: _Worker, heard: Container[int]) -> None:
        """Replaces a process that has ended, and ends one that hangs."""
        now = time.monotonic()
        if worker.link is None:
            if now >= worker.begin_at:
                self._begin(worker)
            return
        assert isinstance(worker.link, _Apart)
        process = worker.link.process
        if process.notes in heard and (how := process.ended) is not None:
            self._replace(
                worker, process, f"more than {self._stuck_after_s:g} s for one picture" if worker.stuck else how
            )
            return
        before, worker.progress = worker.progress, process.progress
        lane, _, since = worker.progress
        if lane and now - since > self._stuck_after_s and before == worker.progress and not worker.stuck:
            worker.stuck = True
            process.kill()

    def _replace(self, worker: _Worker, process: SamplerProcess, how: str) -> None:
        self._exchange(worker)  # what it has done by then
        number, event, since = process.progress
        self._disconnect(worker)
        now = time.monotonic()
        self.deaths += 1
        self._useless = 0 if since else self._useless + 1
        if self._useless >= _MOST_USELESS:
            raise SamplersError(f"sampler processes end as soon as they begin ({how})")
        at_work = worker.lanes.get(number)
        streams = len(worker.lanes)
        for lane in list(worker.lanes.values()):
            self._recover(lane, event - lane.done if lane is at_work else None, how)
        line = (
            f"a sampler process has ended ({how})"
            + ("" if at_work is None else f" at a picture of stream {at_work.stream!r}")
            + (f"; its {streams} streams continue at their next keyframe" if streams else "")
        )
        self._say(line if at_work is None else Notice(line, stream=at_work.stream))
        soon = now < worker.began_at + _SOON_S
        worker.pause_s = min(max(_RESTART_S[0], 2 * worker.pause_s), _RESTART_S[1]) if soon else 0.0
        worker.begin_at = now + worker.pause_s

    def _recover(self, lane: Lane, at: int | None, how: str) -> None:
        """A lane whose process has ended begins once more. `at`: which of its events the process was at, if of this lane."""
        lane.waiting.extendleft(reversed(lane.given))
        lane.given.clear()
        lane.given_bytes = lane.done = lane.held_bytes = 0
        if lane.waiting:
            lane.worker.ready[lane.number] = lane
        events, faults = 0, list[Fault]()
        lane.recovery = Recovery(lane.thin)
        if at is not None and 0 <= at < len(lane.waiting) and lane.fails(how):
            lane.trouble = ResultError("failed", f"its pictures cannot be processed: their sampler has ended ({how})")
            event, size = lane.waiting[at]
            seq = event.seq if isinstance(event, Joined) else 0
            lane.recovery = Recovery(lane.thin, seq, lane.retry_s, lane.trouble)
            if isinstance(event, Joined) and event.picture is not None:
                del lane.waiting[at]
                events = 1
                faults = [Fault(event.packets_offset, f"a sampler process has ended ({how})")]
                self._count(lane, size)
            if self._suspects is None:
                self._suspects = _Worker(len(self._workers))
                self._workers.append(self._suspects)
            del lane.worker.lanes[lane.number]
            lane.worker.ready.pop(lane.number, None)
            lane.worker = self._suspects
            self._place(lane)
        self._out.append(Sampled(lane, events, [], Counter({"sampler-restarts": 1}), faults, lane.trouble))
