"""Decoders and schemas refuse what violates the contract, with one line of plain text, and raise nothing else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecflow.errors import MessageError
from codecflow.messages import (
    CameraLost,
    CodedPicture,
    Condition,
    DeadLetter,
    Decoding,
    EndOfEpoch,
    Event,
    EventRule,
    EventState,
    Exposure,
    FrameMask,
    OpenEvent,
    PictureMetadata,
    Question,
    RuleState,
    Signal,
    StreamDescription,
    StreamState,
    WindowGrid,
    WindowMasks,
    Zone,
    ZonesInForce,
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
from tests.subscriber.example_results import RESULT

from .contract import validator

Decoder = Callable[[bytes | None, bytes | None], object]

GRID = np.arange(12, dtype=np.uint8).reshape(3, 4)
SIGNAL = Signal(
    tick=2,
    interval=Fraction(1, 2),
    change=GRID,
    motion=GRID,
    intra=GRID % 2,
    since=1,
    luma_crc32=7,
    previous=0,
    reference=True,
    exposure=Exposure(200, -17),
    noise=9,
)
PICTURE = CodedPicture(
    stream="gate",
    epoch=1,
    seq=0,
    data=b"\0\0\1\x65",
    codec="h264",
    keyframe=True,
    pts=0,
    dts=None,
    duration=1,
    time_base=Fraction(1, 25),
    captured_at_ms=1,
    width=64,
    height=48,
)
QUESTIONS = (
    Question("person", "Is a person in view?", "yes-no", event=EventRule("yes", 0.8, 0.5, (2, 3), 10.0, 60.0, 30.0)),
    Question("weather", "How is the weather?", "choice", ("dry", "wet"), event=EventRule(above=0.6)),
    Question("scene", "What is to be seen?"),
)
OPEN = OpenEvent("0123456789abcdef", 5, 1, 8.0, 0.9, 3)
EVENTS = EventState(
    newest_epoch=1,
    end_s=8.0,
    captured_at_ms=9,
    rules=(RuleState("person", "0" * 16, (0, 1), 1, 8.0, 1, 0, 5, 2.0, OPEN, "yes"),),
    conditions=(Condition("silent", OPEN),),
)
ZONE = Zone("Einfahrt süd", "ignore", ((0.1, 0.2), (0.8, 0.2), (0.5, 0.9)))
STATE = StreamState(
    "gate",
    1,
    Fraction(8),
    WindowGrid(Fraction(2), 80, 16),
    5,
    5,
    events=EVENTS,
    zones=ZonesInForce(7, Fraction(4)),
    skipped=2,
)
EVENT = Event(
    stream="gate",
    id="0123456789abcdef",
    number=1,
    change="closed",
    kind="answer",
    epoch=1,
    began_at_ms=5,
    at_ms=9,
    written_at_ms=10,
    reason="p(yes) 0.20, below 0.5",
    question="person",
    prompt="Is a person in view?",
    label="yes",
    before="no",
    window=2,
    start_s=0.0,
    end_s=8.0,
    probability=0.2,
    highest=0.9,
    windows=3,
)

MASKS = WindowMasks(
    "gate", 1, 2, 3, "replenish", (FrameMask(4, 0.5, (64, 48), np.eye(3, 4, dtype=bool), True),), Decoding(9, 4)
)


def decode_header(key: bytes | None, value: bytes | None) -> CodedPicture:
    """The picture of a record whose header `picture` is `value`."""
    return decode_packet(key, PICTURE.data, [("picture", value or b"")])


EXAMPLES: dict[str, tuple[str, Decoder, tuple[bytes, bytes]]] = {
    "packet": ("picture", decode_header, (b"gate", encode_packet(PICTURE)[2][0][1])),
    "picture": (
        "metadata",
        decode_metadata,
        encode_metadata(PictureMetadata("gate", 1, 0, 0, 0, Fraction(1, 25), "h264", "I", 4, SIGNAL)),
    ),
    "end": ("metadata", decode_metadata, encode_metadata(EndOfEpoch("gate", 1, 100))),
    "lost": ("metadata", decode_metadata, encode_metadata(CameraLost("gate", 1, "timeout"))),
    "result": ("result", decode_result, encode_result(RESULT)),
    "stream": ("stream", decode_stream, encode_stream(StreamDescription("gate", QUESTIONS, (ZONE,)))),
    "state": ("state", decode_state, encode_state(STATE)),
    "event": ("event", decode_event, encode_event(EVENT)),
    "masks": ("masks", decode_masks, encode_masks(MASKS)[0]),
    "dead-letter": (
        "dead-letter",
        decode_dead_letter,
        encode_dead_letter(DeadLetter("codecflow.packets", 0, 7, "gate", "corrupt", "not decodable")),
    ),
}
OPTIONAL = {
    *(
        "signal",
        "since",
        "after",
        "reference",
        "luma",
        "vectors",
        "exposure",
        "noise",
        "p_yes",
        "label_probabilities",
        "error",
        "skipped",
        "reused_from",
        "background",
        "restarted",
        "ended",
        "max_tokens",
        "anchor",
        "zones",
    ),
    *("dts", "duration", "keyframe", "discard", "disposable", "live", "width", "height", "orientation"),
}
_OPEN = {"number", "since_change_s", "highest", "windows"}
OPTIONAL_IN = {
    "event": {
        *("question", "prompt", "label", "before", "window", "start_s", "end_s", "probability", "highest", "windows"),
    },
    "stream": {"event", "label", "above", "below", "windows", "for_s", "cooldown_s", "update_s"},
    "state": {
        *("events", "newest_epoch", "end_s", "captured_at_ms", "rules", "conditions", "history", "wanted", "held_s"),
        *("answer", "before", "since_ms", "cooldown_left_s", "open", "label", *_OPEN),
    },
}
DERIVED = {"missing"}  # for readers' convenience: expected minus seen


def broken(document: Any, optional: set[str]) -> list[tuple[str, Any]]:
    """Copies of a JSON document, each with one required member removed or of a wrong type, at every depth."""
    copies: list[tuple[str, Any]] = []
    if isinstance(document, dict):
        for name, value in document.items():
            if name in DERIVED:
                continue
            if name not in optional | RESULT.seconds.keys():  # stages may have any name
                copies.append((f"without {name}", {key: v for key, v in document.items() if key != name}))
            copies.append((f"{name} of a wrong type", {**document, name: [None, {}]}))
            copies.extend((f"{name}: {what}", {**document, name: copy}) for what, copy in broken(value, optional))
    elif isinstance(document, list) and document and isinstance(document[0], dict):
        for index, entry in enumerate(document):
            for what, copy in broken(entry, optional):
                copies.append((f"{index}: {what}", [*document[:index], copy, *document[index + 1 :]]))
    return copies


BROKEN = [
    pytest.param(name, orjson.dumps(copy), id=f"{name}: {what}")
    for name, (_, _, (_, value)) in EXAMPLES.items()
    for what, copy in broken(orjson.loads(value), OPTIONAL | OPTIONAL_IN.get(name, set()))
]


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_a_broken_document_is_refused(name: str, value: bytes) -> None:
    schema, decode, (key, _) = EXAMPLES[name]
    assert not validator(schema).is_valid(orjson.loads(value))
    with pytest.raises(MessageError) as refused:
        decode(key, value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_version_is_refused(name: str, version: object) -> None:
    schema, decode, (key, value) = EXAMPLES[name]
    document = {**orjson.loads(value), "v": version}
    assert not validator(schema).is_valid(document)
    with pytest.raises(MessageError, match="version"):
        decode(key, orjson.dumps(document))


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("surprise", [1, None, [[{}]], "\u001b", {"v": 2}], ids=repr)
def test_an_unknown_member_is_ignored(name: str, surprise: object) -> None:
    schema, decode, (key, value) = EXAMPLES[name]
    document = {**orjson.loads(value), "surprise": surprise}
    validator(schema).validate(document)
    if name == "picture":  # grids are arrays, which do not support equality
        assert encode_metadata(decode(key, orjson.dumps(document))) == (key, value)  # type: ignore[arg-type]
    else:
        assert decode(key, orjson.dumps(document)) == decode(key, value)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"[]", b"1", b"\xff", b"null", b'{"v":1}', *(s + b"[" * 5000 for s in (b"", b'{"a":', b'{"v":1,"x":'))],
)
def test_a_value_that_is_no_document_is_refused(name: str, value: bytes) -> None:
    _, decode, (key, _) = EXAMPLES[name]
    with pytest.raises(MessageError):
        decode(key, value)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(
    "key", [None, b"", b"\xff\xfe", b"a b", b"gate\n", "straße".encode(), b"x" * 201, b"k" * (2 << 20)]
)
def test_a_key_that_is_no_stream_is_refused(name: str, key: bytes | None) -> None:
    _, decode, (_, value) = EXAMPLES[name]
    if name == "dead-letter" and key is not None:
        assert len(decode(key, value).stream) <= 300  # type: ignore[attr-defined]  # it says what the key was
        return
    with pytest.raises(MessageError) as refused:
        decode(key, value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("name", EXAMPLES)
@given(data=st.data())
def test_nothing_but_a_message_error_comes_of_any_document(name: str, data: st.DataObject) -> None:
    """A real document with any member, at any depth, replaced by anything."""
    _, decode, (key, value) = EXAMPLES[name]
    document = orjson.loads(value)
    part: Any = document
    while True:
        member = data.draw(st.sampled_from(list(part) if isinstance(part, dict) else range(len(part))))
        if isinstance(part[member], dict | list) and part[member] and data.draw(st.booleans()):
            part = part[member]
            continue
        part[member] = data.draw(JSON)
        break
    try:
        raw = orjson.dumps(document)
    except TypeError:  # an integer beyond 64 bits: no such document exists
        return
    with suppress(MessageError):
        decode(key, raw)


HEADER = encode_packet(PICTURE)[2][0][1]


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        (None, "'picture' is missing"),
        ([], "'picture' is missing"),
        ([("v", b"1")], "'picture' is missing"),
        ([("picture", None)], "must be a document"),
        ([("picture", b"")], "empty"),
        ([("picture", HEADER), ("picture", HEADER)], "'picture' occurs twice"),
        ([("picture", HEADER + b" " * 1024)], "at most 1024 bytes"),
        ([("picture", HEADER), ("extradata", None)], "'extradata' must be of at most"),
        ([("picture", HEADER), ("extradata", b"1"), ("extradata", b"1")], "'extradata' occurs twice"),
        ([("picture", HEADER), ("extradata", bytes(1 << 19))], "'extradata' must be of at most"),
    ],
)
def test_headers_that_are_not_of_the_contract(headers: Any, says: str) -> None:
    with pytest.raises(MessageError, match=says):
        decode_packet(b"gate", PICTURE.data, headers)


def test_headers_of_others_are_ignored() -> None:
    """Trace context and unknown headers: without a value, repeated, of any size."""
    others: Any = [("traceparent", b"00-0af7"), ("traceparent", b"00-0af8"), ("x", None), ("", bytes(100_000))]
    assert decode_packet(b"gate", PICTURE.data, [*others, ("picture", HEADER)]) == PICTURE


@given(st.lists(st.tuples(st.sampled_from(["picture", "extradata", "v", ""]), st.none() | st.binary(max_size=40))))
def test_nothing_but_a_message_error_comes_of_any_headers(headers: Any) -> None:
    with suppress(MessageError):
        decode_packet(b"gate", PICTURE.data, headers)


@pytest.mark.parametrize("name", EXAMPLES)
@given(data=st.data())
def test_nothing_but_a_message_error_comes_of_any_bytes(name: str, data: st.DataObject) -> None:
    """Arbitrary bytes, and those of a real document with some of them replaced, as key and as value."""
    _, decode, (key, value) = EXAMPLES[name]
    at = data.draw(st.integers(0, len(value)))
    patch = data.draw(st.binary(max_size=8))
    mutated = value[:at] + patch + value[at + data.draw(st.integers(0, 8)) :]
    with suppress(MessageError):
        decode(data.draw(st.just(key) | st.none() | st.binary(max_size=300)), data.draw(st.just(mutated) | st.binary()))


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(
    "number",
    [
        *(b"1e2000000000", b"-1e2000000000", b"1e400", b"9" * 4000, b"-" + b"9" * 4000, b"1" + b"0" * 900_000),
        *(b"18446744073709551616", b"-9223372036854775809", b"1e18", b"0.1", b"NaN", b"-0"),
    ],
    ids=lambda number: f"{number[:12].decode()}-{len(number)}",
)
def test_no_number_costs_time(name: str, number: bytes) -> None:
    """Every integer of every document replaced in turn by one that is huge, or expensive to compute."""
    _, decode, (key, value) = EXAMPLES[name]
    for match in re.finditer(rb"(?<=[:,\[])-?[0-9]+(?=[,\]}])", value):
        changed = value[: match.start()] + number + value[match.end() :]
        began = time.process_time()
        with suppress(MessageError):
            decode(key, changed)
        assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("key", "value"), [(None, b"x"), (b"", b"x"), (b"gate", None), (b"gate", b""), (b"\xff", b"x")]
)
def test_a_packet_without_stream_or_picture_is_refused(key: bytes | None, value: bytes | None) -> None:
    with pytest.raises(MessageError):
        decode_packet(key, value, [("picture", HEADER)])
