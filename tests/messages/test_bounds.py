"""The bounds in schemas/ are those of the decoders: both accept a value at each edge and reject one beyond it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, get_args

import av
import orjson
import pytest
import yaml
from jsonschema import Draft202012Validator

from codecflow.errors import ConfigError, MessageError
from codecflow.messages import (
    VIDEO_CODECS,
    DeadLetter,
    PictureMetadata,
    Question,
    ResultError,
    Signal,
    StreamDescription,
    decode_dead_letter,
    decode_metadata,
    decode_packet,
    encode_dead_letter,
    encode_metadata,
    encode_packet,
    encode_result,
    encode_stream,
)
from codecflow.messages.limits import MAX_EXTRADATA, MAX_PICTURE_HEADER, Codec
from tests.subscriber.example_results import RESULT

from .contract import SCHEMAS, schema, validator
from .test_refusals import EXAMPLES, PICTURE, SIGNAL

FULL = {
    # Documents with every member of their schema.
    **EXAMPLES,
    "packet": (
        *EXAMPLES["packet"][:2],
        (
            b"gate",
            encode_packet(
                replace(PICTURE, dts=0, discard=True, live=True, disposable=True, orientation=6, keyframe=True)
            )[2][0][1],
        ),
    ),
    "failed result": (
        *EXAMPLES["result"][:2],
        encode_result(replace(RESULT, answer="", p_yes=None, error=ResultError("failed", "no room"), skipped=1)),
    ),
    "choice result": (
        *EXAMPLES["result"][:2],
        encode_result(
            replace(RESULT, type="choice", answer="a", p_yes=None, label_probabilities={"a": 0.5}, reused_from=0)
        ),
    ),
}

Place = tuple[Any, ...]


def bounds(part: dict[str, Any], document: Any, at: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Paths in `document`, each with its `part` of a schema."""
    for branch in (*part.get("oneOf", ()), *part.get("anyOf", ())):
        if "properties" in branch and all(
            name in document and ("const" not in member or document[name] == member["const"])
            for name, member in branch["properties"].items()
            if name in branch.get("required", ())
        ):
            yield from bounds(branch, document, at)
            return
    yield at, part
    if isinstance(document, dict):
        for name, value in document.items():
            member = part.get("properties", {}).get(name, part.get("additionalProperties"))
            if member:
                yield from bounds(member, value, (*at, name))
    elif isinstance(document, list):
        members = part.get("prefixItems") or [part["items"]] * len(document)
        for index, (value, member) in enumerate(zip(document, members, strict=True)):
            yield from bounds(member, value, (*at, index))


def edges(part: dict[str, Any], value: Any) -> Iterator[tuple[Any, bool]]:
    """Values at the edges of what `part` allows, and beyond them."""
    kind = part.get("type")
    if kind in ("integer", "number"):
        step = 1 if kind == "integer" else 0.01
        for bound, beyond in (("minimum", -step), ("maximum", step)):
            assert bound in part, part["description"]
            yield part[bound], True
            yield part[bound] + beyond, False
        yield from ((other, False) for other in ("1", None, True, [], part["maximum"] * 3, 10**19))
        yield 0.5, kind == "number"
    elif kind == "boolean":
        yield from ((True, True), (False, True), (1, False), ("true", False), (None, False))
    elif "enum" in part:
        yield from ((other, True) for other in part["enum"])
        yield from (
            (other, False) for other in ("", "x", part["enum"][0] + " ", part["enum"][0].upper() + "_", 1, None)
        )
    elif kind == "string" and isinstance(value, str):
        assert "maxLength" in part or "pattern" in part or "const" in part, part["description"]
        if (most := part.get("maxLength")) and "[#" not in part.get("pattern", ""):
            yield "x" * most, True
            yield "x" * (most + 1), False
        yield from ((other, False) for other in (1, None, ["x"]))
    elif kind == "array" and value and isinstance(value[0], str):
        yield [f"{number}" for number in range(part["maxItems"])], True
        yield [f"{number}" for number in range(part["maxItems"] + 1)], False


def changed(document: Any, at: Place, value: Any) -> Any:
    """A copy of `document` with `value` at a place in it."""
    copied = copy.deepcopy(document)
    part = copied
    for step in at[:-1]:
        part = part[step]
    part[at[-1]] = value
    return copied


def value_at(document: Any, at: Place) -> Any:
    for step in at:
        document = document[step]
    return document


# What one member allows depends on others there; tests below check each of these.
DEPENDENT = ("pts", "start", "tb", "tick", "since", "after", "every", "grid", "blocks", "type", "keep")
CASES = [
    pytest.param(name, at, value, fine, id=f"{name}: {'.'.join(map(str, at))} = {str(value)[:24]}")
    for name, (which, _, (_, raw)) in FULL.items()
    for document in [orjson.loads(raw)]
    for at, part in bounds(schema(which), document)
    if at
    for value, fine in edges(part, value_at(document, at))
    if not (fine and (set(at) & set(DEPENDENT) or (name, at) == ("failed result", ("answer",))))
    if not (fine and "event" in at and set(at) & {"label", "above", "below", "windows"})  # of a rule
]


NULLABLE = {
    "picture": ("dts",),
    "metadata": ("since", "after", "luma"),
    "result": ("p_yes", "error", "label_probabilities", "reused_from"),
    "stream": ("label", "below", "event"),
    "state": ("open",),
    "event": (
        "question",
        "prompt",
        "label",
        "before",
        "window",
        "start_s",
        "end_s",
        "probability",
        "highest",
        "windows",
    ),
}


@pytest.mark.parametrize(("name", "at", "value", "fine"), CASES)
def test_schema_and_decoder_have_the_same_bounds(name: str, at: Place, value: Any, fine: bool) -> None:
    which, decode, (key, raw) = FULL[name]
    document = changed(orjson.loads(raw), at, value)
    if at[-1] == "missing":  # of no interest to readers
        return
    if value is None and at[-1] in NULLABLE.get(which, ()):
        return  # no writer writes null; readers treat it as absent
    assert validator(which).is_valid(document) == fine
    if fine:
        decode(key, json.dumps(document).encode())
    else:
        with pytest.raises(MessageError) as refused:
            decode(key, json.dumps(document).encode())
        assert len(str(refused.value)) <= 400


PATTERNS = [
    pytest.param(name, at, id=f"{name}: {'.'.join(map(str, at))}")
    for name, (which, _, (_, raw)) in FULL.items()
    for at, part in bounds(schema(which), orjson.loads(raw))
    if re.fullmatch(r"\^\[.*[\])}]\$", part.get("pattern", ""))
]


@pytest.mark.parametrize(("name", "at"), PATTERNS)
@pytest.mark.parametrize("more", ["\n", "\x00", "\x1b[2J", "\u202e", "\r"], ids=repr)
def test_text_of_a_fixed_form_ends_where_the_form_does(name: str, at: Place, more: str) -> None:
    """A line feed at the end, too, which Python's $ would allow: such text is printed, and is part of file names."""
    _, decode, (key, raw) = FULL[name]
    document = orjson.loads(raw)
    value = value_at(document, at)
    decode(key, orjson.dumps(document))
    for text in (value + more, more + value):
        with pytest.raises(MessageError) as refused:
            decode(key, orjson.dumps(changed(document, at, text)))
        assert str(refused.value).isprintable()


def test_every_member_of_every_schema_is_among_the_cases() -> None:
    def members(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            for name, member in part.get("properties", {}).items():
                if isinstance(member, dict) and "description" in member:
                    yield name
                yield from members(member)
            for key in ("oneOf", "anyOf", "items"):
                for branch in part.get(key) or [] if isinstance(part.get(key), list) else [part.get(key)]:
                    yield from members(branch)

    for which in {which for which, _, _ in FULL.values()}:
        documents = [(schema(which), orjson.loads(raw)) for w, _, (_, raw) in FULL.values() if w == which]
        seen = {step for part, document in documents for at, _ in bounds(part, document) for step in at}
        assert set(members(schema(which))) <= seen, which


@pytest.mark.parametrize(
    ("pts", "start", "fine"),
    [
        (2**31, 0, True),
        (2**31 + 1, 0, False),
        (-(2**31), 0, True),
        (0, 2**31 + 1, False),
        (2**63 - 1, 2**63 - 2, True),
        (2**63 - 1, -(2**63) + 1, False),
    ],
)
def test_presentation_times_are_bounded(pts: int, start: int, fine: bool) -> None:
    key, value = encode_metadata(PictureMetadata("gate", 1, 0, pts, start, Fraction(1), "h264", "I", 4))
    if fine:
        decode_metadata(key, value)
    else:
        with pytest.raises(MessageError, match="away from start"):
            decode_metadata(key, value)


@pytest.mark.parametrize(
    ("every", "fine"), [("1/1000", True), ("1/1001", False), ("60", True), ("61", False), ("1/3", True)]
)
def test_signal_intervals_are_bounded(every: str, fine: bool) -> None:
    _refused_unless(fine, replace(SIGNAL, interval=Fraction(every)), "60 s are allowed")


@pytest.mark.parametrize(("since", "fine"), [(None, True), (0, True), (1, True), (2, False), (3, False)])
def test_a_signal_is_measured_against_an_earlier_one(since: int | None, fine: bool) -> None:
    _refused_unless(fine, replace(SIGNAL, since=since), "is not before tick 2")


def _refused_unless(fine: bool, signal: Signal, says: str) -> None:
    key, value = encode_metadata(PictureMetadata("gate", 1, 0, 0, 0, Fraction(1), "h264", "I", 4, signal))
    if fine:
        decoded = decode_metadata(key, value)
        assert isinstance(decoded, PictureMetadata)
        assert decoded.signal is not None
        assert (decoded.signal.interval, decoded.signal.since) == (signal.interval, signal.since)
    else:
        with pytest.raises(MessageError, match=says):
            decode_metadata(key, value)


@pytest.mark.parametrize("grid", [(1, 11), (3, 5), (12, 2), (512, 512), (513, 1)])
def test_grids_hold_as_many_blocks_as_they_say(grid: tuple[int, int]) -> None:
    document = orjson.loads(EXAMPLES["picture"][2][1])
    document["signal"]["grid"] = grid
    with pytest.raises(MessageError, match=r"blocks are expected|<= 512"):
        decode_metadata(b"gate", orjson.dumps(document))


def test_the_largest_grid_is_read() -> None:
    document = orjson.loads(EXAMPLES["picture"][2][1])
    document["signal"] |= {"grid": [512, 512], "blocks": "#" * 512 * 512}
    decoded = decode_metadata(b"gate", orjson.dumps(document))
    assert isinstance(decoded, PictureMetadata)
    assert decoded.signal is not None
    assert decoded.signal.change.shape == (512, 512)
    document["signal"]["blocks"] += "#"
    with pytest.raises(MessageError, match="length <= 262144"):
        decode_metadata(b"gate", orjson.dumps(document))


@pytest.mark.parametrize(("after", "fine"), [(0, True), (1, True), (2, False), (None, True)])
def test_a_signal_follows_an_earlier_one(after: int | None, fine: bool) -> None:
    _refused_unless(fine, replace(SIGNAL, previous=after), "is not before tick 2")


@pytest.mark.parametrize("character", ['"', "}", "~", "\x00", "é"])
def test_a_character_that_stands_for_no_levels(character: str) -> None:
    document = orjson.loads(EXAMPLES["picture"][2][1])
    document["signal"]["blocks"] = character + document["signal"]["blocks"][1:]
    assert not validator("metadata").is_valid(document)
    with pytest.raises(MessageError, match="invalid character among the blocks"):
        decode_metadata(b"gate", orjson.dumps(document))


def test_codecs_are_those_that_ffmpeg_decodes_in_software() -> None:
    assert set(get_args(Codec)) == VIDEO_CODECS
    assert schema("picture")["properties"]["codec"]["enum"] == sorted(VIDEO_CODECS)
    for name in VIDEO_CODECS:
        codec = av.Codec("libdav1d" if name == "av1" else name, "r")
        assert codec.type == "video"
        assert codec.canonical_name == name


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le", "h264_cuvid", "libdav1d", "rawvideo", "h265", "H264", ""])
def test_any_other_codec_is_refused(codec: str) -> None:
    key, value, headers = encode_packet(replace(PICTURE, codec=codec))
    assert not validator("picture").is_valid(orjson.loads(headers[0][1]))
    with pytest.raises(MessageError, match="codec"):
        decode_packet(key, value, headers)


def test_headers_have_the_published_sizes() -> None:
    channels = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())
    headers = channels["components"]["messages"]["codedPicture"]["headers"]["schema"]["properties"]
    assert headers["extradata"]["maxLength"] == 4 * -(-MAX_EXTRADATA // 3)  # base64
    assert f"at most {MAX_PICTURE_HEADER} bytes" in schema("picture")["description"]
    key, value, _ = encode_packet(PICTURE)
    extreme = {
        name: (member["minimum"] if member.get("minimum", 0) < 0 else member.get("maximum", 2**31 - 1))
        for name, member in schema("picture")["properties"].items()
        if member.get("type") == "integer"
    }
    largest = replace(
        PICTURE,
        **extreme,
        time_base=Fraction(2**31 - 2, 2**31 - 1),
        codec="mpeg1video",
        discard=True,
        live=True,
        disposable=True,
    )
    _, _, written = encode_packet(largest)
    assert len(written[0][1]) < 400  # the producer relies on this
    assert decode_packet(key, value, written) == largest


@pytest.mark.parametrize("stream", ["x", "x" * 200, "Cam_1.a:b-C"])
def test_stream_ids(stream: str) -> None:
    pattern = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())["components"]["messageTraits"]["keyedByStream"]
    validate = Draft202012Validator(pattern["bindings"]["kafka"]["key"]).is_valid
    for good, bad in (
        (stream, stream + " "),
        (stream, stream + "é"),
        (stream, stream + "\n"),
        ("x", ""),
        ("x", "x" * 201),
    ):
        assert validate(good)
        assert decode_packet(good.encode(), b"x", encode_packet(PICTURE)[2]).stream == good
        assert not validate(bad) or bad.endswith("\n")  # $ also matches before a last newline
        with pytest.raises(MessageError, match="the key must be a stream id"):
            decode_packet(bad.encode(), b"x", encode_packet(PICTURE)[2])


def question(**members: Any) -> dict[str, Any]:
    return {"id": "q", "prompt": "Which?", "type": "choice", "labels": ["a", "b"], **members}


@pytest.mark.parametrize(
    ("questions", "also_schema"),
    [
        ([question(labels=["a", ""])], True),
        ([question(labels=["a", " \t"])], True),
        ([question(labels=["a", "a"])], True),
        ([question(labels=["a", " a "])], False),  # JSON Schema cannot express this
        ([question(labels=["a"])], True),
        ([question(labels=[])], True),
        ([question(labels=["a", "b" * 201])], True),
        ([question(labels=[str(number) for number in range(65)])], True),
        ([question(prompt="x" * 4001)], True),
        ([question(prompt=" \n")], True),
        ([question(id=" ")], True),
        ([question(id="x" * 201)], True),
        ([question(type="essay")], True),
        ([question(type="text", max_tokens=0)], True),
        ([question(type="text", labels=[], max_tokens=1025)], True),
        ([question(), question()], False),
        ([question(id=str(number)) for number in range(65)], True),
    ],
)
def test_questions_that_cannot_be_answered(questions: list[Any], also_schema: bool) -> None:
    document = {"v": 1, "questions": questions}
    assert validator("stream").is_valid(document) != also_schema
    with pytest.raises(MessageError) as refused:
        EXAMPLES["stream"][1](b"gate", orjson.dumps(document))
    assert str(refused.value).isprintable()
    with pytest.raises((ConfigError, TypeError)):
        StreamDescription("gate", tuple(Question(**{**one, "labels": tuple(one["labels"])}) for one in questions))


def test_as_many_questions_as_allowed_fit_into_a_record() -> None:
    most = tuple(
        Question(f"{number:0200}", "é" * 4000, "choice", tuple(f"{label:0200}" for label in range(64)))
        for number in range(64)
    )
    key, value = encode_stream(StreamDescription("gate", most))
    assert EXAMPLES["stream"][1](key, value) == StreamDescription("gate", most)


@pytest.mark.parametrize("key", [b"k" * (2 << 20), b"\xff" * (2 << 20), "é\x1b\n".encode() * (1 << 19), None])
def test_a_dead_letter_is_small_whatever_the_record_holds(key: bytes | None) -> None:
    letter = DeadLetter("codecflow.packets", 0, 7, DeadLetter.key_text(key), "unreadable", "x\x1b[2J\n" * 1_000_000)
    encoded = encode_dead_letter(letter)
    assert sum(map(len, encoded)) < 4 * 300 * 2 + 200
    assert decode_dead_letter(*encoded) == letter
    for text in (letter.stream, letter.reason):
        assert len(text) <= 300
        assert text.isprintable()
