"""codecflow.packets: one unchanged coded picture per record; its data in the header `picture`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import msgspec

from codecflow.errors import MessageError

from ._wire import REFUSALS, SCHEMA_VERSION, Headers, Version, refused, stream_of
from .limits import (
    MAX_EXTRADATA,
    MAX_PICTURE_BYTES,
    MAX_PICTURE_HEADER,
    ClockMs,
    Codec,
    Natural,
    Ratio,
    Seq,
    Side,
    Stamp,
    fraction,
)

ANNEX_B_CODECS = frozenset({"h264", "hevc"})
"""Published as Annex B with parameter sets before every keyframe; all other codecs as demuxed, with extradata in a
header."""


@dataclass(slots=True)  # not frozen: construction would take ten times as long, and there is one per picture
class CodedPicture:
    """One coded picture of one stream.

    `seq` counts the pictures of an epoch in decode order from 0; (stream, epoch, seq) is the join key with its metadata.
    `pts`, `dts`, `duration` are in units of `time_base` seconds. `discard`: to be decoded, since others refer to it, but
    never shown (MP4 edit lists). `extradata` only on keyframes of codecs that are not Annex B. `live`: it arrives in real
    time, from a camera or a file played as one, so a reader that is behind may skip it. `orientation`: the transform that
    shows the coded picture upright, as in EXIF, 1 to 8. `disposable`: no other picture refers to it. `trace`: W3C trace
    context, the header `traceparent`.
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
    live: bool = False
    orientation: int = 1
    disposable: bool = False
    trace: str | None = None


class _Picture(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The header `picture`. Members with their default value are omitted."""

    v: Version
    epoch: ClockMs
    seq: Seq
    pts: Stamp
    time_base: Ratio
    captured_at_ms: ClockMs
    codec: Codec
    dts: Stamp | None = None
    duration: Natural = 0
    keyframe: bool = False
    discard: bool = False
    disposable: bool = False
    live: bool = False
    width: Side = 0
    height: Side = 0
    orientation: Annotated[int, msgspec.Meta(ge=1, le=8)] = 1


_decode = msgspec.json.Decoder(_Picture).decode
_encode = msgspec.json.Encoder().encode


def encode_packet(picture: CodedPicture) -> tuple[bytes, bytes, Headers]:
    """(key, value, headers) of the record."""
    base = picture.time_base
    document = _Picture(
        SCHEMA_VERSION,
        picture.epoch,
        picture.seq,
        picture.pts,
        (base.numerator, base.denominator),
        picture.captured_at_ms,
        picture.codec,  # type: ignore[arg-type]  # a reader checks it
        picture.dts,
        picture.duration,
        picture.keyframe,
        picture.discard,
        picture.disposable,
        picture.live,
        picture.width,
        picture.height,
        picture.orientation,
    )
    headers: Headers = [("picture", _encode(document))]
    if picture.extradata is not None:
        headers.append(("extradata", picture.extradata))
    if picture.trace is not None:
        headers.append(("traceparent", picture.trace.encode()))
    return picture.stream.encode(), picture.data, headers


def decode_packet(key: bytes | None, value: bytes | None, headers: Headers | None) -> CodedPicture:
    """The coded picture in a record. Unknown headers are ignored. Raises MessageError."""
    what = "packet"
    stream = stream_of(key, what)
    if not value or len(value) > MAX_PICTURE_BYTES:
        raise MessageError(f"{what}: a picture as value is expected, of at most {MAX_PICTURE_BYTES} bytes")
    text, extradata, trace = _own(headers or [])
    try:
        one = _decode(text)
    except REFUSALS as error:
        raise refused(text, f"{what}: header 'picture'", error) from error
    return CodedPicture(
        stream,
        one.epoch,
        one.seq,
        value,
        one.codec,
        one.keyframe,
        one.pts,
        one.dts,
        one.duration,
        fraction(*one.time_base),
        one.captured_at_ms,
        one.width,
        one.height,
        one.discard,
        extradata,
        one.live,
        one.orientation,
        one.disposable,
        trace,
    )


_TRACE = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def _own(headers: Headers) -> tuple[bytes, bytes | None, str | None]:
    """The values of the headers `picture`, `extradata` and `traceparent`, of which only the first is required."""
    picture: bytes | None = None
    extradata: bytes | None = None
    trace: str | None = None
    for name, value in headers:
        if name == "picture":
            if picture is not None:
                raise MessageError("packet: header 'picture' occurs twice")
            if not isinstance(value, bytes) or len(value) > MAX_PICTURE_HEADER:  # Kafka allows one without a value
                raise MessageError(f"packet: header 'picture' must be a document of at most {MAX_PICTURE_HEADER} bytes")
            picture = value
        elif name == "extradata":
            if extradata is not None:
                raise MessageError("packet: header 'extradata' occurs twice")
            if not isinstance(value, bytes) or len(value) > MAX_EXTRADATA:
                raise MessageError(f"packet: header 'extradata' must be of at most {MAX_EXTRADATA} bytes")
            extradata = value
        elif name == "traceparent" and isinstance(value, bytes) and _TRACE.fullmatch(value):
            trace = value.decode()
    if picture is None:
        raise MessageError("packet: header 'picture' is missing")
    return picture, extradata, trace
