"""codecflow.dead-letter: the coordinates of an unusable record and the reason; never its payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from codecflow.errors import MessageError
from codecflow.text import one_line

from ._wire import REFUSALS, dump, load_members, refused
from .limits import CODE, MAX_LINE, TOPIC, Count32, Line, Natural


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Coordinates of one unusable record. `code` is a short word for counting; `reason` one line for people.

    `stream`: the record's key, whatever it contains. It and the reason are cut to 300 printable characters: a dead letter
    must fit into its topic whatever the record holds.
    """

    topic: Annotated[str, msgspec.Meta(pattern=TOPIC)]
    partition: Count32
    offset: Natural
    stream: str
    code: Annotated[str, msgspec.Meta(pattern=CODE)]
    reason: Line

    def __post_init__(self) -> None:
        object.__setattr__(self, "stream", one_line(self.stream, MAX_LINE))
        object.__setattr__(self, "reason", one_line(self.reason, MAX_LINE))

    @staticmethod
    def key_text(key: bytes | None) -> str:
        """A record's key as `stream` takes it; decodes no more of a large key than is shown."""
        return (key or b"")[: 4 * MAX_LINE + 4].decode(errors="replace")


def encode_dead_letter(letter: DeadLetter) -> tuple[bytes, bytes]:
    """(key, value) of the record."""
    return letter.stream.encode(), dump(letter)


def decode_dead_letter(key: bytes | None, value: bytes | None) -> DeadLetter:
    """The dead letter in a record. Raises MessageError on anything that violates this contract."""
    what = "dead letter"
    if key is None:
        raise MessageError(f"{what}: a stream is expected as key")
    document = load_members(value, what)
    document["stream"] = DeadLetter.key_text(key)
    try:
        return msgspec.convert(document, DeadLetter)
    except REFUSALS as error:
        raise refused(value, what, error) from error
