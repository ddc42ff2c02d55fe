"""codecflow.state: how far each stream's results have been emitted. Compacted; written in the results' transaction."""

from __future__ import annotations

from dataclasses import dataclass

from ._wire import dump, field, load, stream_of


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a worker that takes the stream over begins, and what it must not emit again.

    `next_window`: index of the first window of `epoch` that has no result yet. `packets_offset`, `metadata_offset`: records
    of the keyframe from which that window can be rebuilt. `ended`: the epoch is closed and answered; nothing is to rebuild.
    """

    stream: str
    epoch: int
    next_window: int
    packets_offset: int
    metadata_offset: int
    ended: bool = False


def encode_state(state: StreamState) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    return state.stream.encode(), dump(
        {
            "epoch": state.epoch,
            "next_window": state.next_window,
            "packets_offset": state.packets_offset,
            "metadata_offset": state.metadata_offset,
            "ended": state.ended,
        }
    )


def decode_state(key: bytes | None, value: bytes | None) -> StreamState:
    """The state in a record. Raises MessageError on anything that is not of this contract."""
    what = "state"
    stream = stream_of(key, what)
    document = load(value, what)
    return StreamState(
        stream=stream,
        epoch=field(document, "epoch", int, what),
        next_window=field(document, "next_window", int, what),
        packets_offset=field(document, "packets_offset", int, what),
        metadata_offset=field(document, "metadata_offset", int, what),
        ended=field(document, "ended", bool, what),
    )
