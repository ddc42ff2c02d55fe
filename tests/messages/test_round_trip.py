"""Every value of the types survives the wire unchanged, and conforms to schemas/."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from codecflow.messages import (
    CameraLost,
    CodedPicture,
    DeadLetter,
    Decoding,
    EndOfEpoch,
    Event,
    FrameMask,
    PictureMetadata,
    Result,
    Signal,
    StreamDescription,
    StreamState,
    WindowMasks,
    decode_dead_letter,
    decode_event,
    decode_masks,
    decode_metadata,
    decode_packet,
    decode_result,
    decode_state,
    decode_stream,
    encode_dead_letter,
    encode_event,
    encode_masks,
    encode_metadata,
    encode_packet,
    encode_result,
    encode_state,
    encode_stream,
)

from . import strategies
from .contract import check, check_headers


@given(strategies.pictures)
def test_packet(picture: CodedPicture) -> None:
    key, value, headers = encode_packet(picture)
    assert value is picture.data
    check_headers(headers)
    assert decode_packet(key, value, headers) == picture


@pytest.mark.parametrize("context", [b"00", b"", None, b"00-" + b"z" * 32 + b"-" + b"0" * 16 + b"-01", b"\xff" * 55])
def test_a_trace_context_goes_along_and_what_is_none_is_ignored(context: bytes | None) -> None:
    picture = CodedPicture("gate", 1, 0, b"x", "h264", True, 0, 0, 1, Fraction(1, 25), 1, 16, 16)
    picture.trace = f"00-{'4b' * 16}-{'f0' * 8}-01"
    key, value, headers = encode_packet(picture)
    assert headers[-1] == ("traceparent", picture.trace.encode())
    assert decode_packet(key, value, headers) == picture
    headers[-1] = ("traceparent", context)  # type: ignore[assignment]  # Kafka allows one without a value
    assert decode_packet(key, value, headers).trace is None


@given(strategies.metadata)
def test_metadata(message: PictureMetadata | EndOfEpoch | CameraLost) -> None:
    key, value = encode_metadata(message)
    check("metadata", value)
    assert_same(decode_metadata(key, value), message)


@given(strategies.descriptions())
def test_stream(description: StreamDescription) -> None:
    key, value = encode_stream(description)
    check("stream", value)
    assert decode_stream(key, value) == description


@given(strategies.results())
def test_result(result: Result) -> None:
    key, value = encode_result(result)
    document = check("result", value)
    assert document["frames"]["missing"] == result.frames.missing
    assert decode_result(key, value) == result


@given(strategies.events)
def test_events(event: Event) -> None:
    key, value = encode_event(event)
    check("event", value)
    assert decode_event(key, value) == event


@given(strategies.masks)
def test_masks(masks: WindowMasks) -> None:
    ((key, value),) = encode_masks(masks)
    check("masks", value)
    assert decode_masks(key, value) == masks


@pytest.mark.parametrize(("frames", "side"), [(3000, 4), (30, 512)])
def test_a_window_of_many_frames_or_tokens_takes_several_records(frames: int, side: int) -> None:
    keep = np.random.default_rng(0).random((side, side)) < 0.5
    masks = WindowMasks(
        "gate", 1, 2, 3, "replenish", tuple(FrameMask(k, k / 2, (64, 64), keep) for k in range(frames)), Decoding(9, 4)
    )
    records = encode_masks(masks)
    parts = [decode_masks(*record) for record in records]
    assert len(parts) > 1
    assert max(len(value) for _, value in records) < 900_000
    assert tuple(frame for part in parts for frame in part.frames) == masks.frames
    assert [part.pictures for part in parts] == [Decoding(9, 4)] + [Decoding(0, 0)] * (len(parts) - 1)


@given(strategies.states)
def test_state(state: StreamState) -> None:
    key, value = encode_state(state)
    check("state", value)
    assert decode_state(key, value) == state


@given(strategies.dead_letters)
def test_dead_letter(letter: DeadLetter) -> None:
    key, value = encode_dead_letter(letter)
    check("dead-letter", value)
    assert decode_dead_letter(key, value) == letter


def test_a_tombstone_asks_nothing() -> None:
    assert decode_stream(b"gate", None) == StreamDescription("gate")


def assert_same(got: Any, wanted: Any) -> None:
    """Equality of metadata, whose grids are arrays."""
    assert type(got) is type(wanted)
    for part in fields(wanted):
        ours, theirs = getattr(got, part.name), getattr(wanted, part.name)
        if isinstance(theirs, Signal):
            assert_same(ours, theirs)
        elif isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype == np.uint8
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs, part.name
