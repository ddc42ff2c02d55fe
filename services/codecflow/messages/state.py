"""codecflow.state: how far each stream's results have been emitted. Compacted; written in the results' transaction."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import msgspec

from ._wire import dump, load
from .events import NO_EVENTS, EventState
from .limits import MAX_INT32, ClockMs, Count32, Natural, Positive32


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """The position of windows on presentation time: each spans `window_slots` slots of 1/`fps` seconds and ends with one of
    the consecutive strides of `stride_slots` from the start of the epoch."""

    fps: Fraction
    window_slots: Positive32
    stride_slots: Positive32

    def __post_init__(self) -> None:
        if not 0 < self.fps <= MAX_INT32:
            raise ValueError(f"{self.fps} frames/s: a positive number of 32 bits is expected")


@dataclass(frozen=True, slots=True)
class ZonesInForce:
    """The zones that masks follow, given by `zones_digest`, and the presentation time from which they apply: earlier frames
    no longer belong to any window."""

    digest: Count32
    since: Fraction


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a successor starts, and what it must not emit again.

    `answered_until`: seconds of presentation time since the start of `epoch` up to which windows were emitted or left out:
    the end of the newest one, under `plan`. `packets_offset`, `metadata_offset`: records of the keyframe from which the next
    window can be rebuilt. `ended`: the epoch is closed and answered; nothing has to be rebuilt. `events`: the state of its
    rules, and which events are open. `zones`: those of the frames up to `answered_until`; None if zones were never changed
    in this epoch and there are none. `skipped`: windows right before `answered_until` that were left out because the worker
    was behind.
    """

    stream: str
    epoch: ClockMs
    answered_until: Fraction
    plan: WindowGrid
    packets_offset: Natural
    metadata_offset: Natural
    ended: bool = False
    events: EventState = NO_EVENTS
    zones: ZonesInForce | None = None
    skipped: Count32 = 0


def encode_state(state: StreamState) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    return state.stream.encode(), dump(state, events=msgspec.to_builtins(state.events) or None)


def decode_state(key: bytes | None, value: bytes | None) -> StreamState:
    """The state in a record. Raises MessageError on anything that violates this contract."""
    return load(StreamState, key, value, "state")
