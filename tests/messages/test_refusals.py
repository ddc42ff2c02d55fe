"""Decoders and schemas refuse what is not of the contract, with one line of plain words, and raise nothing else."""

from __future__ import annotations

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
    CodedPicture,
    DeadLetter,
    EndOfEpoch,
    Headers,
    PictureMetadata,
    Question,
    Signal,
    StreamDescription,
    StreamState,
    decode_dead_letter,
    decode_metadata,
    decode_packet,
    decode_result,
    decode_state,
    decode_stream,
    encode_dead_letter,
    encode_metadata,
    encode_packet,
    encode_result,
    encode_state,
    encode_stream,
)
from tests.subscriber.example_results import RESULT

from .contract import headers_document, validator

Decoder = Callable[[bytes | None, bytes | None], object]

GRID = np.arange(12, dtype=np.uint8).reshape(3, 4)
SIGNAL = Signal(tick=2, interval=Fraction(1, 2), change=GRID, motion=GRID, intra=GRID % 2)
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
    Question("person", "Is a person in view?", "yes-no"),
    Question("weather", "How is the weather?", "choice", ("dry", "wet")),
    Question("scene", "What is to be seen?"),
)
EXAMPLES: dict[str, tuple[str, Decoder, tuple[bytes, bytes]]] = {
    "picture": (
        "metadata",
        decode_metadata,
        encode_metadata(PictureMetadata("gate", 1, 0, 0, 0, Fraction(1, 25), "h264", "I", 4, SIGNAL)),
    ),
    "end": ("metadata", decode_metadata, encode_metadata(EndOfEpoch("gate", 1, 100))),
    "result": ("result", decode_result, encode_result(RESULT)),
    "stream": ("stream", decode_stream, encode_stream(StreamDescription("gate", QUESTIONS))),
    "state": ("state", decode_state, encode_state(StreamState("gate", 1, 0, 5, 5))),
    "dead-letter": (
        "dead-letter",
        decode_dead_letter,
        encode_dead_letter(DeadLetter("codecflow.packets", 0, 7, "gate", "corrupt", "not decodable")),
    ),
}
OPTIONAL = {"signal", "p_yes", "change", "motion", "intra", "vectors", "max_tokens"}
DERIVED = {"missing"}  # for readers' convenience: expected less seen


def broken(document: Any) -> list[tuple[str, Any]]:
    """Copies of a JSON document, each with one required member removed or of a wrong type, at every depth."""
    copies: list[tuple[str, Any]] = []
    if isinstance(document, dict):
        for name, value in document.items():
            if name in DERIVED:
                continue
            if name not in OPTIONAL | RESULT.seconds.keys():  # stages are named freely
                copies.append((f"without {name}", {key: v for key, v in document.items() if key != name}))
            copies.append((f"{name} of a wrong type", {**document, name: [None, {}]}))
            copies.extend((f"{name}: {what}", {**document, name: copy}) for what, copy in broken(value))
    elif isinstance(document, list) and document and isinstance(document[0], dict):
        for index, entry in enumerate(document):
            for what, copy in broken(entry):
                copies.append((f"{index}: {what}", [*document[:index], copy, *document[index + 1 :]]))
    return copies


BROKEN = [
    pytest.param(name, orjson.dumps(copy), id=f"{name}: {what}")
    for name, (_, _, (_, value)) in EXAMPLES.items()
    for what, copy in broken(orjson.loads(value))
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
def test_an_unknown_member_is_not_of_the_contract(name: str) -> None:
    schema, _, (_, value) = EXAMPLES[name]
    document = orjson.loads(value)
    validator(schema).validate(document)
    assert not validator(schema).is_valid({**document, "surprise": 1})


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"1", b"\xff", b"null", b'{"v":1}', b"[" * 5000])
def test_a_value_that_is_no_document_is_refused(name: str, value: bytes) -> None:
    _, decode, (key, _) = EXAMPLES[name]
    with pytest.raises(MessageError):
        decode(key, value)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("key", [None, b"\xff\xfe"])
def test_a_key_that_is_no_stream_is_refused(name: str, key: bytes | None) -> None:
    _, decode, (_, value) = EXAMPLES[name]
    if (name, key) == ("dead-letter", b"\xff\xfe"):  # its stream may well be what was unreadable
        assert decode(key, value)
        return
    with pytest.raises(MessageError):
        decode(key, value)


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


def packet_headers(**changes: bytes | None) -> Headers:
    """The example picture's headers, each of `changes` replaced, or left out when None."""
    headers = {**dict(encode_packet(PICTURE)[2]), **changes}
    return [(name, value) for name, value in headers.items() if value is not None]


@pytest.mark.parametrize("name", [name for name, _ in encode_packet(PICTURE)[2]])
def test_a_packet_without_a_header_is_refused(name: str) -> None:
    headers = packet_headers(**{name: None})
    assert not validator("packet-headers").is_valid(headers_document(headers))
    with pytest.raises(MessageError):
        decode_packet(b"gate", PICTURE.data, headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", b"2"),
        ("v", b""),
        ("epoch", b"soon"),
        ("seq", b"-1"),
        ("pts", b"1.5"),
        ("dts", b"x"),
        ("time_base", b"0/1"),
        ("time_base", b"1/0"),
        ("time_base", b"-1/25"),
        ("keyframe", b"yes"),
        ("discard", b"2"),
        ("width", b"wide"),
    ],
)
def test_a_packet_with_an_unreadable_header_is_refused(name: str, value: bytes) -> None:
    headers = packet_headers(**{name: value})
    assert not validator("packet-headers").is_valid(headers_document(headers))
    with pytest.raises(MessageError):
        decode_packet(b"gate", PICTURE.data, headers)


@given(st.sampled_from([name for name, _ in encode_packet(PICTURE)[2]]), st.none() | st.binary(max_size=20))
def test_nothing_but_a_message_error_comes_of_any_header(name: str, value: bytes | None) -> None:
    """Kafka allows headers without a value too."""
    headers: Any = [(key, value if key == name else old) for key, old in encode_packet(PICTURE)[2]]
    with suppress(MessageError):
        decode_packet(b"gate", PICTURE.data, headers)


@pytest.mark.parametrize(
    ("key", "value"), [(None, b"x"), (b"", b"x"), (b"gate", None), (b"gate", b""), (b"\xff", b"x")]
)
def test_a_packet_without_stream_or_picture_is_refused(key: bytes | None, value: bytes | None) -> None:
    with pytest.raises(MessageError):
        decode_packet(key, value, packet_headers())
