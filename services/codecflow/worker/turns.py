"""What a partition gives to its worker, and what it is given: turns to answer and commit, limits, and whom to tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from codecflow.messages import DeadLetter, StreamState

from .feed import Window
from .stream import Stream


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker holds of the streams that it follows, and for how long it waits.

    `windows`: closed windows of one stream that wait for the engine. `pictures`, `picture_bytes`: coded pictures of one
    stream that wait for their metadata; `documents`: metadata that wait for their pictures. A topic is paused while one of
    its streams is at a limit. `partner_s`: how long after a stream's newest record, and with the other topic read to its
    end, what waits is given up. `idle_s`: after so long without a record a stream holds its partition's offsets back no
    more; when it comes back it begins at its next keyframe, and its windows are marked as restarted.
    """

    windows: int = 2
    pictures: int = 2_000
    picture_bytes: int = 64 << 20
    documents: int = 4_000
    partner_s: float = 60.0
    idle_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What one stream has for the next transaction: at most one window to answer, and the state once it is emitted.

    `epoch`: that of the window. `steps`: how many of the stream's steps this covers.
    """

    stream: Stream
    epoch: int
    window: Window | None
    state: StreamState
    steps: int

    @staticmethod
    def of(stream: Stream) -> Turn:
        """Of a stream that has something: its steps up to the second window, which is another turn's."""
        window: Window | None = None
        epoch, count, last = -1, 0, stream.ready[0]
        for step in stream.ready:
            if step.window is not None:
                if window is not None:
                    break
                window, epoch = step.window, step.epoch
            count, last = count + 1, step
        plan = stream.plan
        until = plan.time(last.next_window * plan.stride_slots)
        state = StreamState(stream.name, last.epoch, until, plan.grid, *last.rewind, ended=last.ended)
        return Turn(stream, epoch, window, state, count)


@dataclass(frozen=True, slots=True)
class Reports:
    """Where a partition tells what happens: a counter for each stream, records that are not of the wire contract, and lines
    for the operator."""

    counts: Callable[[str], Counter[str]]
    dead: Callable[[DeadLetter], None]
    say: Callable[[str], None]
