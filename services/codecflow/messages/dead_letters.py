"""codecflow.dead-letter: where a record lies that could not be used, and why; never its payload."""

from __future__ import annotations

from dataclasses import dataclass

from codecflow.errors import MessageError

from ._wire import dump, field, load


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Coordinates of one unusable record. `code` is a short word to count by; `reason` one line for people."""

    topic: str
    partition: int
    offset: int
    stream: str
    code: str
    reason: str


def encode_dead_letter(letter: DeadLetter) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    return letter.stream.encode(), dump(
        {
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "code": letter.code,
            "reason": letter.reason,
        }
    )


def decode_dead_letter(key: bytes | None, value: bytes | None) -> DeadLetter:
    """The dead letter in a record. Raises MessageError on anything that is not of this contract."""
    what = "dead letter"
    if key is None:
        raise MessageError(f"{what}: a stream is expected as key")
    document = load(value, what)
    return DeadLetter(
        topic=field(document, "topic", str, what),
        partition=field(document, "partition", int, what),
        offset=field(document, "offset", int, what),
        stream=key.decode(errors="replace"),
        code=field(document, "code", str, what),
        reason=field(document, "reason", str, what),
    )
