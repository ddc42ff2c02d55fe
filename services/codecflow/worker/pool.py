"""The sampler pool: the samplers of all streams, in processes of their own.

Decoding, masks and resizing acquire and release Python's interpreter lock many times per frame. As threads they would
contend for it with each other, the join, the engine and the committer; each process has its own. (docs/decisions/024.)

A stream belongs to one process, the least busy one when it starts, since its sampler's state (a decoder, masks, open
windows) is there; its events are processed in order, so results do not depend on the number of processes. The queue of a
stream keeps its events until the process has acknowledged them, and sends it a bounded number ahead.

A process that ends, by a decoder crash or killed from outside, is replaced. Its streams continue in the new one after the
newest step, at their next keyframe: the samplers' state is lost, frames are missing from the windows that were open, and
windows are marked as restarted. The stream whose picture was at fault is set aside for a while, then continues in a process
reserved for such streams. Output passed on before is unaffected, so nothing is emitted twice.

The caller bounds the queue (`queued_bytes`); the pool bounds its output, through the gate.
"""

from __future__ import annotations

import select
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass

from codecflow.logs import Notice
from codecflow.messages import ResultError, StreamState, Zone

from . import sampler_host
from .join import Joined
from .pool_member import LocalLink, Member, ProcessLink
from .sampler_events import Event, Fault, Recovery, Sampling, SetZones, Thin
from .sampler_host import SamplerProcess, SamplersError
from .sampler_process import Allow, Drop, Gate, Push, Turn
from .stream_queue import StreamQueue
from .windows import Step

_EVENT_BYTES = 500
"""Memory counted per event, in addition to its picture and the grids of its signal."""
_AHEAD_BYTES = 1 << 20
"""Per queue: limit on what its process is sent before it acknowledges."""
_RESTART_S = (0.25, 30.0)
"""Delay before a process that ended soon after it started is replaced, initially and at most."""
_SOON_S = 10.0
_MAX_FAILED_STARTS = 5
"""Consecutive processes that ended before they were ready: they cannot work here."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Output of one queue in one turn, in order. `events`: how many were processed; `counts`: what the sampler counted
    meanwhile."""

    queue: StreamQueue
    events: int
    steps: Sequence[Step]
    counts: Counter[str]
    faults: Sequence[Fault]
    trouble: ResultError | None


class SamplerPool:
    """Samplers in `processes` processes; with 0 in the caller's own, synchronously.

    For use by one thread, the owner's; nothing here blocks. `notice` is called with lines for people. `stuck_after_s`: how
    long a process may take for one event before it is killed and replaced."""

    def __init__(
        self,
        sampling: Sampling,
        processes: int,
        notice: Callable[[str], None] = lambda line: None,
        stuck_after_s: float = 180.0,
    ) -> None:
        self.queued_bytes = 0
        self.deaths = 0
        """Processes that have ended and were replaced."""
        self._sampling, self._notice, self._stuck_after_s = sampling, notice, stuck_after_s
        self._separate = processes > 0
        self._gate = Gate.OPEN
        self._opened = 0
        self._out: deque[Sampled] = deque()
        self._failed_starts = 0
        self._poll = select.poll()
        self._members = [Member(number) for number in range(max(1, processes))]
        self._quarantine: Member | None = None
        for member in self._members:
            self._begin(member)

    @property
    def held_bytes(self) -> int:
        """Bytes of sampled frames in open windows."""
        return sum(queue.held_bytes for member in self._members for queue in member.queues.values())

    @property
    def queued(self) -> int:
        """Events that wait to be sampled."""
        queues = [queue for member in self._members for queue in member.queues.values()]
        return sum(len(queue.waiting) + len(queue.sent) for queue in queues)

    @property
    def busy_s(self) -> list[float]:
        """Wall-clock seconds that each process was busy, without the work in progress."""
        return [member.busy_s for member in self._members]

    @property
    def cpu_s(self) -> list[float]:
        """CPU seconds of each process's work."""
        return [member.cpu_s for member in self._members]

    @property
    def memory(self) -> int:
        """Bytes that the processes hold, without what they share."""
        return sum(member.memory for member in self._members)

    @property
    def processes(self) -> list[SamplerProcess]:
        """Processes that run or are starting."""
        return [member.link.process for member in self._members if isinstance(member.link, ProcessLink)]

    def open(self, stream: str, state: StreamState | None, zones: tuple[Zone, ...] = ()) -> StreamQueue:
        """Start a stream. `state`: how far it was answered before."""
        self._opened += 1
        queue = StreamQueue(self._opened, stream, state, zones, self._least_loaded())
        self._place(queue)
        return queue

    def drop(self, queue: StreamQueue) -> None:
        """Discard a queue with its events. `take` no longer returns output that it has already produced."""
        queue.closed = True
        member = queue.member
        del member.queues[queue.number]
        member.ready.pop(queue.number, None)
        member.commands.append(Drop(queue.number))
        self.queued_bytes -= queue.queued_bytes
        for events in (queue.waiting, queue.sent):
            events.clear()
        queue.queued_bytes = queue.sent_bytes = queue.held_bytes = 0

    def push(self, queue: StreamQueue, event: Event) -> None:
        """Append an event to a queue."""
        size = _EVENT_BYTES
        if isinstance(event, Joined):
            size += len(event.picture.data) if event.picture is not None else 0
            size += event.metadata.signal.nbytes if event.metadata is not None and event.metadata.signal else 0
        queue.unfinished += 1
        queue.waiting.append((event, size))
        queue.queued_bytes += size
        self.queued_bytes += size
        queue.member.ready[queue.number] = queue
        if not self._separate:
            self._exchange(queue.member)

    def gate(self, gate: Gate) -> None:
        if gate is not self._gate:
            self._gate = gate
            self._allow()
            if not self._separate:
                self._exchange(self._members[0])

    def take(self) -> list[Sampled]:
        """What was sampled since the last call. Also drives the exchange with the processes: call it often.

        Raises SamplersError when processes cannot be started.
        """
        # One system call, for any number of processes.
        readable = {file for file, _ in self._poll.poll(0)} if self._separate else None
        for member in list(self._members):
            if readable is not None:
                self._supervise(member, readable)
            self._exchange(member, readable)
        if self._gate is Gate.ONE:
            self._allow()
            for member in self._members:
                self._exchange(member, readable)
        found = []
        while self._out:
            sampled = self._out.popleft()
            if not sampled.queue.closed:
                sampled.queue.unfinished -= sampled.events
                found.append(sampled)
        return found

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        for member in self._members:
            self._disconnect(member)

    def _exchange(self, member: Member, readable: Container[int] | None = None) -> None:
        """Send a process what waits for it and receive its output, unless `readable` says that there is none."""
        if (link := member.link) is None:
            return
        with suppress(EOFError):  # it has ended: _look_after handles that
            if link.free:
                self._send(member)
                if member.commands:
                    commands, member.commands = member.commands, []
                    link.send(commands)
            if readable is None or link.fileno() in readable:
                for turn in link.receive():
                    self._done(member, turn)

    def _send(self, member: Member) -> None:
        for queue in list(member.ready.values()):
            events = []
            while queue.waiting and (queue.sent_bytes < _AHEAD_BYTES or not self._separate):
                event, size = item = queue.waiting.popleft()
                events.append(event)
                queue.sent.append(item)
                queue.sent_bytes += size
            if events:
                member.commands.append(Push(queue.number, events))
            if not queue.waiting:
                del member.ready[queue.number]

    def _done(self, member: Member, turn: Turn) -> None:
        member.busy_s += turn.busy_s
        member.cpu_s += turn.cpu_s
        member.memory = member.memory if turn.memory is None else turn.memory
        if member.allowed.gate is Gate.ONE and any(step.window is not None for step in turn.steps):
            member.allowed = Allow(Gate.CLOSED)  # a new process's default
        queue = member.queues.get(turn.queue)
        if queue is None:  # dropped
            return
        done = 0
        for _ in range(turn.events):
            event, size = queue.sent.popleft()
            done += size
            if isinstance(event, Thin):
                queue.thin = event.on
            elif isinstance(event, SetZones):
                queue.zones = event.zones
        self._count(queue, done)
        queue.sent_bytes -= done
        queue.done += turn.events
        queue.held_bytes = turn.held_bytes
        queue.cpu_s += turn.cpu_s
        queue.trouble = turn.trouble
        if turn.steps:
            queue.state = turn.steps[-1].state
        self._out.append(Sampled(queue, turn.events, turn.steps, turn.counts, turn.faults, turn.trouble))

    def _count(self, queue: StreamQueue, done: int) -> None:
        queue.queued_bytes -= done
        self.queued_bytes -= done

    def _allow(self) -> None:
        """Send processes what the gate permits."""
        chosen = None
        if self._gate is Gate.ONE:
            queues = [
                queue for member in self._members for queue in member.queues.values() if queue.sent or queue.waiting
            ]
            chosen = max(queues, key=lambda queue: queue.held_bytes, default=None)
        for member in self._members:
            allowed = Allow(self._gate)
            if self._gate is Gate.ONE:
                mine = chosen is not None and chosen.member is member
                allowed = Allow(Gate.ONE, chosen.number) if chosen is not None and mine else Allow(Gate.CLOSED)
            if allowed != member.allowed:
                member.allowed = allowed
                member.commands.append(allowed)

    # --- starting and ending processes ----------------------------------------------------------------------------------

    def _begin(self, member: Member) -> None:
        """Start a new process for this member, with samplers for its queues."""
        if self._separate:
            process = sampler_host.start()
            member.link = ProcessLink(process)
            for file in (process.channel.fileno(), process.notes):
                self._poll.register(file, select.POLLIN)
        else:
            member.link = LocalLink()
        member.began_at = time.monotonic()
        member.stuck = False
        member.commands = [self._sampling, *(queue.opening() for queue in member.queues.values())]
        if member.allowed.gate is not Gate.OPEN:
            member.commands.append(member.allowed)

    def _place(self, queue: StreamQueue) -> None:
        member = queue.member
        member.queues[queue.number] = queue
        member.commands.append(queue.opening())
        if queue.waiting:
            member.ready[queue.number] = queue

    def _least_loaded(self) -> Member:
        now = time.monotonic()
        costs = {queue: queue.cost(now) for member in self._members for queue in member.queues.values()}
        known = [cost for cost in costs.values() if cost is not None]
        typical = sum(known) / len(known) if known else 1.0

        def load(member: Member) -> float:
            return sum(typical if (cost := costs[queue]) is None else cost for queue in member.queues.values())

        return min((member for member in self._members if member is not self._quarantine), key=load)

    def _disconnect(self, member: Member) -> None:
        if isinstance(link := member.link, ProcessLink):
            for file in (link.process.channel.fileno(), link.process.notes):
                self._poll.unregister(file)
            link.process.close()
        member.link = None

    def _supervise(self, member: Member, readable: Container[int]) -> None:
        """Replace a process that has ended; kill one that hangs."""
        now = time.monotonic()
        if member.link is None:
            if now >= member.begin_at:
                self._begin(member)
            return
        assert isinstance(member.link, ProcessLink)
        process = member.link.process
        if process.notes in readable and (how := process.ended) is not None:
            self._replace(
                member, process, f"more than {self._stuck_after_s:g} s for one picture" if member.stuck else how
            )
            return
        before, member.progress = member.progress, process.progress
        queue, _, since = member.progress
        if queue and now - since > self._stuck_after_s and before == member.progress and not member.stuck:
            member.stuck = True
            process.kill()

    def _replace(self, member: Member, process: SamplerProcess, how: str) -> None:
        self._exchange(member)  # its output up to then
        number, event, since = process.progress
        self._disconnect(member)
        now = time.monotonic()
        self.deaths += 1
        self._failed_starts = 0 if since else self._failed_starts + 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise SamplersError(f"sampler processes end as soon as they start ({how})")
        at_work = member.queues.get(number)
        streams = len(member.queues)
        for queue in list(member.queues.values()):
            self._recover(queue, event - queue.done if queue is at_work else None, how)
        line = (
            f"a sampler process has ended ({how})"
            + ("" if at_work is None else f" at a picture of stream {at_work.stream!r}")
            + (f"; its {streams} streams continue at their next keyframe" if streams else "")
        )
        self._notice(line if at_work is None else Notice(line, stream=at_work.stream))
        soon = now < member.began_at + _SOON_S
        member.pause_s = min(max(_RESTART_S[0], 2 * member.pause_s), _RESTART_S[1]) if soon else 0.0
        member.begin_at = now + member.pause_s

    def _recover(self, queue: StreamQueue, at: int | None, how: str) -> None:
        """Restart a queue whose process has ended. `at`: the event that the process was handling, if it was of this
        queue."""
        queue.waiting.extendleft(reversed(queue.sent))
        queue.sent.clear()
        queue.sent_bytes = queue.done = queue.held_bytes = 0
        if queue.waiting:
            queue.member.ready[queue.number] = queue
        events, faults = 0, list[Fault]()
        queue.recovery = Recovery(queue.thin)
        if at is not None and 0 <= at < len(queue.waiting) and queue.fails(how):
            queue.trouble = ResultError("failed", f"its pictures cannot be processed: their sampler has ended ({how})")
            event, size = queue.waiting[at]
            seq = event.seq if isinstance(event, Joined) else 0
            queue.recovery = Recovery(queue.thin, seq, queue.retry_s, queue.trouble)
            if isinstance(event, Joined) and event.picture is not None:
                del queue.waiting[at]
                events = 1
                faults = [Fault(event.packets_offset, f"a sampler process has ended ({how})")]
                self._count(queue, size)
            if self._quarantine is None:
                self._quarantine = Member(len(self._members))
                self._members.append(self._quarantine)
            del queue.member.queues[queue.number]
            queue.member.ready.pop(queue.number, None)
            queue.member = self._quarantine
            self._place(queue)
        self._out.append(Sampled(queue, events, [], Counter({"sampler-restarts": 1}), faults, queue.trouble))
