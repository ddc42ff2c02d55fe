"""Fuzzing of everything that reads external text and records: messages, settings files, addresses, labels of clips."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from codecflow.codec.addresses import Address, is_address, redact, shown
from codecflow.codec.tls import check_certificates
from codecflow.errors import CodecFlowError, MessageError
from codecflow.events.syntax import parse_rule, rule_text
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import (
    CodedPicture,
    Condition,
    DeadLetter,
    Decoding,
    EndOfEpoch,
    Event,
    EventRule,
    EventState,
    Exposure,
    Flops,
    FrameMask,
    Frames,
    OpenEvent,
    PictureMetadata,
    Question,
    Result,
    RuleState,
    Signal,
    StreamDescription,
    StreamState,
    Tokens,
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
from codecflow.subscriber.lines import event_json, event_line, read_result_json, result_json, result_line
from codecflow.subscriber.times import parse_span
from codecflow.tools.evaluate.spec import read_spec

from .mutations import mutated_bytes, mutated_json

LONGEST_LINE = 2_000
"""Maximum characters of an error message."""

_GRID = np.arange(48, dtype=np.uint8).reshape(6, 8)
_PICTURE = CodedPicture("gate", 1, 0, b"\0\0\1\x65", "h264", True, 0, -1, 1, Fraction(1, 25), 1, 128, 96, live=True)
_SIGNAL = Signal(2, Fraction(1, 2), _GRID, _GRID, _GRID % 2, 1, 7, 0, True, Exposure(300, -12), 9)
_QUESTIONS = (
    Question("person", "Is a person in view?", "yes-no", event=EventRule("yes", 0.8, 0.5, (2, 3), 10.0)),
    Question("weather", "How is it?", "choice", ("dry", "wet")),
)
_RESULT = Result(
    stream="gate",
    epoch=1,
    window=3,
    start_s=0.0,
    end_s=8.0,
    captured_at_ms=1,
    answered_at_ms=2,
    question="person",
    prompt="Is a person in view?",
    type="yes-no",
    answer="yes",
    p_yes=0.75,
    label_probabilities={"a": 0.5},
    frames=Frames(16, 15),
    tokens=Tokens(1, 2, 3, 4),
    flops=Flops(1, 2, 3),
    seconds={"decode": 0.25},
    keep="replenish",
    refresh="none",
    model="tiny",
    trained=False,
)
_MASKS = WindowMasks("gate", 1, 0, 1, "replenish", (FrameMask(0, 0.5, (64, 48), _GRID > 9),), Decoding(1, 1))


@dataclass(frozen=True, slots=True)
class Target:
    """A reader of external bytes. `examples`: input that it accepts. `read` raises CodecFlowError or returns what it read.
    `json`: the examples are JSON documents."""

    examples: tuple[bytes, ...]
    read: Callable[[bytes], object]
    json: bool = True


def _record(
    decode: Callable[[bytes | None, bytes | None], Any], encode: Callable[[Any], Any]
) -> Callable[[bytes], object]:
    """Reads a record, and writes its content again."""

    def read(value: bytes) -> object:
        return encode(decode(b"gate", value))

    return read


def _keys(key: bytes) -> object:
    for decode in (
        decode_metadata,
        decode_state,
        decode_stream,
        decode_result,
        decode_event,
        decode_masks,
        decode_dead_letter,
    ):
        try:
            decode(key, b"{}")
        except CodecFlowError as error:
            _check_line(str(error))
    return decode_packet(key, b"x", [("picture", b"{}")])


def _headers(data: bytes) -> object:
    """Bytes as a list of headers: names and values by length bytes."""
    headers: list[Any] = []
    at = 0
    while at < len(data):
        name, value = data[at + 1 : at + 1 + data[at] % 16], data[at + 17 : at + 17 + data[at]]
        text = name.decode(errors="replace")
        headers.append((chosen(text), None if data[at] == 0 else value))
        at += 18 + data[at]
    return decode_packet(b"gate", b"x", headers)


def chosen(text: str) -> str:
    """A header's name, often a known one."""
    return ("picture", "extradata", text)[len(text) % 3]


def _result(value: bytes) -> object:
    line = result_line(decode_result(b"gate", value))
    document = result_json(decode_result(b"gate", value))
    _check_line(line, most=200_000)
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in document):
        raise AssertionError("control characters in a JSON line")
    return read_result_json(document)


def _event(value: bytes) -> object:
    event = decode_event(b"gate", value)
    _check_line(event_line(event), most=200_000)
    event_json(event)
    return decode_event(*encode_event(event))


def _rule(data: bytes) -> object:
    return parse_rule(rule_text(parse_rule(data.decode(errors="replace"))))


def _times(data: bytes) -> object:
    first, _, last = data.decode(errors="surrogateescape").partition(" ")
    return parse_span(first, last or None, UTC, datetime(2026, 11, 28, 12, tzinfo=UTC))


def _address(data: bytes) -> object:
    text = data.decode(errors="surrogateescape")
    _check_line(shown(text), most=10**6)
    redact(f"it failed: {text}", [text])
    is_address(text)
    return Address.parse(text)


def targets(folder: Path) -> dict[str, Target]:
    """Targets by name. `folder`: for those that read files."""

    def file(read: Callable[[Path], object]) -> Callable[[bytes], object]:
        path = folder / "file"

        def from_bytes(data: bytes) -> object:
            path.write_bytes(data)
            return read(path)

        return from_bytes

    header = encode_packet(_PICTURE)[2][0][1]
    picture = encode_metadata(PictureMetadata("gate", 1, 0, 0, 0, Fraction(1, 25), "h264", "I", 4, _SIGNAL))[1]
    end = encode_metadata(EndOfEpoch("gate", 1, 100))[1]
    opened = OpenEvent("0" * 16, 5, 1, 8.0, 0.9, 3)
    rule = RuleState("person", "0" * 16, (0, 1), 1, 8.0, 1, 0, 5, 2.0, opened, "yes")
    remembered = EventState(1, 8.0, 9, (rule,), (Condition("silent", opened),))
    plan, in_force = WindowGrid(Fraction(2), 80, 16), ZonesInForce(7, Fraction(4))
    answered = StreamState("gate", 1, Fraction(8), plan, 5, 5, events=remembered, zones=in_force, skipped=2)
    state = encode_state(answered)[1]
    event = encode_event(Event("gate", "0" * 16, 1, "closed", "answer", 1, 5, 9, 10, "why", "person", label="yes"))[1]
    letter = encode_dead_letter(DeadLetter("codecflow.packets", 0, 7, "gate", "corrupt", "not decodable"))[1]
    zones = (Zone("street", "ignore", ((0.0, 0.0), (1.0, 0.0), (1.0, 0.3))),)
    provenance = encode_stream(StreamDescription("gate", _QUESTIONS, zones))[1]
    result, masks = encode_result(_RESULT)[1], encode_masks(_MASKS)[0][1]
    properties = b"bootstrap.servers=a:1,b:2\n# comment\nsasl.password=x=y\n"
    labels = b"file,start,end,question,type,answer\nclip.mp4,0,9.5,Is a person in view?,yes-no,yes\n"
    return {
        "packet": Target((header,), lambda value: encode_packet(decode_packet(b"gate", b"x", [("picture", value)]))),
        "packet headers": Target((bytes([5]) + b"picture" * 6, bytes(60)), _headers, json=False),
        "key": Target((b"gate", b"a:b.c-d_e"), _keys, json=False),
        "metadata": Target((picture, end), _record(decode_metadata, encode_metadata)),
        "state": Target((state,), _record(decode_state, encode_state)),
        "stream": Target((provenance,), _record(decode_stream, encode_stream)),
        "result": Target((result,), _result),
        "event": Target((event,), _event),
        "rule": Target((b"yes>=0.8,below=0.5,windows=2/3,for=10,cooldown=60,update=30", b"change"), _rule, json=False),
        "masks": Target((masks,), _record(decode_masks, encode_masks)),
        "dead letter": Target((letter,), _record(decode_dead_letter, encode_dead_letter)),
        "result line": Target((result_json(_RESULT).encode(),), read_result_json),
        "kafka config": Target(
            (properties,), file(lambda path: KafkaSettings.from_options(config_file=path)), json=False
        ),
        "labels": Target((labels,), file(read_spec), json=False),
        "certificates": Target(
            (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",), file(check_certificates), json=False
        ),
        "times": Target(
            (b"22:00", b"7:30:10", b"90m", b"3d", b"2026-11-28T22:00+01:00", b"2026-11-28"), _times, json=False
        ),
        "address": Target(
            (
                b"rtsp://user:password@192.0.2.7:554/stream1?x=1#y",
                b"http://[::1]:80/a.m3u8",
                b"file:///a%20b.mp4",
                b"user:pw@h",
            ),
            _address,
            json=False,
        ),
    }


class WireCases:
    """Wire cases by number. Cases cycle through the targets."""

    def __init__(self, seed: int, targets: dict[str, Target]) -> None:
        self._seed = seed
        self._targets = list(targets.items())

    def data(self, number: int) -> tuple[str, Callable[[bytes], object], bytes]:
        """The target's name, the target, and its input."""
        chance = Random(f"{self._seed} {number}")
        name, target = self._targets[number % len(self._targets)]
        example = chance.choice(target.examples)
        if target.json and chance.random() < 0.7:
            data = mutated_json(example, chance)
            if chance.random() < 0.1:
                data = mutated_bytes(data, chance)
        else:
            data = mutated_bytes(example, chance, [one for _, other in self._targets for one in other.examples])
        return name, target.read, data

    def run(self, number: int) -> bool:
        """Whether the case was accepted. Raises what no input may cause."""
        _, read, data = self.data(number)
        try:
            read(data)
        except MessageError as error:
            _check_line(str(error))  # logs and dead letters show it; other errors go through the command line
            return False
        except CodecFlowError:
            return False
        return True

    def describe(self, number: int) -> str:
        """A description of the case."""
        name, _, data = self.data(number)
        return f"{name}: {data!r}"


@contextmanager
def wire_cases(seed: int) -> Iterator[WireCases]:
    with tempfile.TemporaryDirectory(prefix="codecflow-fuzz-") as folder:
        yield WireCases(seed, targets(Path(folder)))


def _check_line(text: str, most: int = LONGEST_LINE) -> None:
    """An error message must be one line, and must not control a terminal."""
    if len(text) > most or any(c < " " or "\x7f" <= c <= "\x9f" or "\u202a" <= c <= "\u202e" for c in text):
        raise AssertionError(f"no line for people: {text[:200]!r}")
