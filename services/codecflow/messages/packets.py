"""codecflow.packets: one coded picture a record, untouched; everything else in headers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from codecflow.errors import MessageError

from ._wire import SCHEMA_VERSION, Headers, check_version, stream_of

ANNEX_B_CODECS = frozenset({"h264", "hevc"})
"""Published as Annex B with parameter sets before every keyframe; all other codecs as demuxed, extradata in a header."""


@dataclass(frozen=True, slots=True)
class CodedPicture:
    """One coded picture of one stream.

    `seq` counts the pictures of an epoch in decode order from 0; (stream, epoch, seq) is the join key with its metadata.
    `pts`, `dts`, `duration` are in units of `time_base` seconds. `discard`: to be decoded, since others refer to it, but
    never shown (MP4 edit lists). `extradata` only on keyframes of codecs that are not Annex B.
    """

    stream: str
    epoch: int
    seq: int
    data: bytes
    codec: str
    keyframe: bool
    pts: int
    dts: int | None
    duration: int
    time_base: Fraction
    captured_at_ms: int
    width: int
    height: int
    discard: bool = False
    extradata: bytes | None = None


def encode_packet(picture: CodedPicture) -> tuple[bytes, bytes, Headers]:
    """(key, value, headers) of the record."""
    text = {
        "v": SCHEMA_VERSION,
        "epoch": picture.epoch,
        "seq": picture.seq,
        "pts": picture.pts,
        "dts": "" if picture.dts is None else picture.dts,
        "duration": picture.duration,
        "time_base": f"{picture.time_base.numerator}/{picture.time_base.denominator}",
        "captured_at_ms": picture.captured_at_ms,
        "codec": picture.codec,
        "keyframe": int(picture.keyframe),
        "discard": int(picture.discard),
        "width": picture.width,
        "height": picture.height,
    }
    headers: Headers = [(name, str(value).encode()) for name, value in text.items()]
    if picture.extradata is not None:
        headers.append(("extradata", picture.extradata))
    return picture.stream.encode(), picture.data, headers


def decode_packet(key: bytes | None, value: bytes | None, headers: Headers | None) -> CodedPicture:
    """The coded picture in a record. Raises MessageError on anything that is not of this contract."""
    what = "packet"
    stream = stream_of(key, what)
    if not value:
        raise MessageError(f"{what}: a picture as value is expected")
    fields = dict(headers or [])
    check_version(_natural(fields, "v"), what)
    return CodedPicture(
        stream=stream,
        epoch=_natural(fields, "epoch"),
        seq=_natural(fields, "seq"),
        data=value,
        codec=_text(fields, "codec"),
        keyframe=_flag(fields, "keyframe"),
        pts=_integer(fields, "pts"),
        dts=_integer(fields, "dts") if _text(fields, "dts") else None,
        duration=_natural(fields, "duration"),
        time_base=_time_base(fields),
        captured_at_ms=_natural(fields, "captured_at_ms"),
        width=_natural(fields, "width"),
        height=_natural(fields, "height"),
        discard=_flag(fields, "discard"),
        extradata=fields.get("extradata"),
    )


def _text(fields: dict[str, bytes], name: str) -> str:
    try:
        return fields[name].decode()
    except KeyError as error:
        raise MessageError(f"packet: header {name!r} is missing") from error
    except (AttributeError, UnicodeDecodeError) as error:  # Kafka allows a header without a value
        raise MessageError(f"packet: header {name!r} is no text") from error


def _integer(fields: dict[str, bytes], name: str) -> int:
    text = _text(fields, name)
    try:
        return int(text)
    except ValueError as error:
        raise MessageError(f"packet: header {name!r} must be an integer, not {text!r}"[:300]) from error


def _natural(fields: dict[str, bytes], name: str) -> int:
    number = _integer(fields, name)
    if number < 0:
        raise MessageError(f"packet: header {name!r} must not be negative, not {number}")
    return number


def _flag(fields: dict[str, bytes], name: str) -> bool:
    text = _text(fields, name)
    if text not in ("0", "1"):
        raise MessageError(f"packet: header {name!r} must be 0 or 1, not {text!r}"[:300])
    return text == "1"


def _time_base(fields: dict[str, bytes]) -> Fraction:
    text = _text(fields, "time_base")
    try:
        time_base = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise MessageError(f"packet: header 'time_base' must be a fraction, not {text!r}"[:300]) from error
    if time_base <= 0:
        raise MessageError(f"packet: header 'time_base' must be positive, not {text!r}")
    return time_base
