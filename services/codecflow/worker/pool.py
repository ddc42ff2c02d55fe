"""The sampler pool: N threads that run the samplers of all streams.

Each stream has a lane: a queue of events, worked off in order and by one thread at a time, so that the results do not
depend on the number of threads. Lanes with events wait in one line, and any idle thread takes the next: a stream whose
pictures are costly occupies one thread, and no stream is bound to the thread of another (as it would be with streams hashed
to threads).

The caller bounds what is queued (`queued_bytes`); the pool bounds what it makes of it, through the gate.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from codecflow.messages import ResultError

from .join import Joined
from .sampler import Event, Fault, Sampler
from .status import BusyTime
from .windows import Step

_QUANTUM_S = 0.02
"""How long a thread works on one lane while others wait."""
_EVENT_BYTES = 500
"""Taken for an event itself, beside its picture."""


class Gate(Enum):
    """How much the pool may do: everything; only the stream nearest to closing its window (sampled frames fill the memory,
    and nothing but a closed window will free any); nothing (the engine will free some)."""

    OPEN = "open"
    ONE = "one"
    CLOSED = "closed"


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

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.queued_bytes = 0
        self.held_bytes = 0
        self.unfinished = 0
        """Events that were pushed, and whose outcome was not taken from the pool yet. Its owner's to read."""
        self.closed = False
        self.queue: deque[tuple[Event, int]] = deque()
        self.waiting = False
        """Whether it stands in line, or a thread works on it."""


class SamplerPool:
    """Runs samplers in `threads` threads; with 0 in the caller's, at once.

    `push`, `take` and the rest are for one thread, the owner's. Nothing here blocks but `close`.
    """

    def __init__(self, threads: int) -> None:
        self.queued_bytes = 0
        self._lanes: set[Lane] = set()
        self._line: deque[Lane] = deque()
        self._turn = threading.Condition()
        self._gate = Gate.OPEN
        self._running: dict[Lane, float] = {}
        self._out: deque[Sampled] = deque()
        self._stopping = False
        self._error: BaseException | None = None
        self.times = [BusyTime() for _ in range(threads or 1)]
        """Of each thread."""
        # Daemons: a process must be able to end while a decoder hangs.
        self._threads = [
            threading.Thread(target=self._work, args=[self.times[number]], name=f"sampler-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def held_bytes(self) -> int:
        """Bytes of sampled frames in open windows."""
        return sum(lane.held_bytes for lane in self._lanes)

    @property
    def queued(self) -> int:
        """Events that wait to be sampled."""
        return sum(len(lane.queue) for lane in self._lanes)

    def busy(self) -> list[tuple[str, float]]:
        """Streams that are being worked on, and since when (monotonic seconds)."""
        return [(f"sampling stream {lane.sampler.stream!r}", since) for lane, since in list(self._running.items())]

    def open(self, sampler: Sampler) -> Lane:
        lane = Lane(sampler)
        self._lanes.add(lane)
        return lane

    def drop(self, lane: Lane) -> None:
        """Forget a lane and what waits in it. What it has handed on already is not given out by `take` any more."""
        with self._turn:
            lane.closed = True
            self._lanes.discard(lane)
            self.queued_bytes -= lane.queued_bytes
            lane.queue.clear()
            lane.queued_bytes = lane.held_bytes = 0

    def push(self, lane: Lane, event: Event) -> None:
        """Give a lane its next event."""
        size = _EVENT_BYTES
        if isinstance(event, Joined) and event.picture is not None:
            size += len(event.picture.data)
        lane.unfinished += 1
        with self._turn:
            lane.queue.append((event, size))
            lane.queued_bytes += size
            self.queued_bytes += size
            if not lane.waiting:
                lane.waiting = True
                self._line.append(lane)
                self._turn.notify()
        self._work_here()

    def gate(self, gate: Gate) -> None:
        if gate is not self._gate:
            with self._turn:
                self._gate = gate
                self._turn.notify_all()
            self._work_here()

    def take(self) -> list[Sampled]:
        """What was sampled since the last call. Raises what a thread of the pool died of."""
        if self._error is not None:
            raise self._error
        found = []
        while self._out:
            sampled = self._out.popleft()
            if not sampled.lane.closed:
                sampled.lane.unfinished -= sampled.events
                found.append(sampled)
        return found

    def close(self, within_s: float = 10.0) -> None:
        """Waits for what is being decoded, at most `within_s` seconds."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
        deadline = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work_here(self) -> None:
        """Without threads: work off what waits."""
        while not self._threads and (lane := self._next()) is not None:
            with self.times[0]:
                self._serve(lane)

    def _work(self, busy: BusyTime) -> None:
        try:
            _compute_alone()
            while True:
                with self._turn:
                    lane = self._next()
                    if lane is None and busy.since is not None:
                        busy.end()
                    while lane is None and not self._stopping:
                        self._turn.wait()
                        lane = self._next()
                    if self._stopping or lane is None:
                        return
                busy.lap()
                self._serve(lane)
        except BaseException as error:  # noqa: BLE001  # raised again by `take`, in the thread that can end the worker
            self._error = error

    def _next(self) -> Lane | None:
        """The lane whose turn it is. To be called with the lock held, or without threads."""
        if not self._line or self._gate is Gate.CLOSED:
            return None
        if self._gate is Gate.ONE:
            if self._running:
                return None
            lane = max(self._line, key=lambda one: one.held_bytes)
            self._line.remove(lane)
        else:
            lane = self._line.popleft()
        self._running[lane] = time.monotonic()
        return lane

    def _serve(self, lane: Lane) -> None:
        """Work on a lane for a while, hand on what came out, and send it to the end of the line if there is more."""
        sampler, steps, done, events = lane.sampler, [], 0, 0
        until = time.monotonic() + _QUANTUM_S
        while lane.queue and not self._stopping:
            try:
                event, size = lane.queue.popleft()
            except IndexError:  # dropped meanwhile
                break
            done += size
            events += 1
            steps += sampler.push(event)
            if time.monotonic() > until:
                break
        counts, sampler.counts = sampler.counts, Counter()
        faults, sampler.faults = sampler.faults, []
        held_bytes = sampler.held_bytes
        with self._turn:
            del self._running[lane]
            if lane.closed:
                return
            lane.held_bytes = held_bytes
            lane.queued_bytes -= done
            self.queued_bytes -= done
            self._out.append(Sampled(lane, events, steps, counts, faults, sampler.trouble))
            if lane.queue:
                self._line.append(lane)
                self._turn.notify()
            else:
                lane.waiting = False
                if self._gate is Gate.ONE:
                    self._turn.notify()


def _compute_alone() -> None:
    """From now on PyTorch computes in the calling thread alone. Otherwise each of N threads would spread its resizes over N
    others, and they would wait for each other. The engine's threads are left as they are."""
    torch.get_num_threads()  # PyTorch sets a thread's number at its first call: what follows must come after it
    ThreadpoolController().select(user_api="openmp").limit(limits=1)
