"""codecflow.packets: one coded picture a record, untouched; everything else in headers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from codecflow.errors import MessageError

from ._wire import SCHEMA_VERSION, Headers, check_version

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
    if not key or not value:
        raise MessageError(f"{what}: a stream as key and a picture as value are expected")
    fields = dict(headers or [])
    try:
        version = int(fields["v"])
    except (KeyError, ValueError) as error:
        raise MessageError(f"{what}: no schema version in its headers") from error
    check_version(version, what)
    try:
        dts = fields["dts"]
        return CodedPicture(
            stream=key.decode(),
            epoch=int(fields["epoch"]),
            seq=int(fields["seq"]),
            data=value,
            codec=fields["codec"].decode(),
            keyframe=fields["keyframe"] == b"1",
            pts=int(fields["pts"]),
            dts=int(dts) if dts else None,
            duration=int(fields["duration"]),
            time_base=Fraction(fields["time_base"].decode()),
            captured_at_ms=int(fields["captured_at_ms"]),
            width=int(fields["width"]),
            height=int(fields["height"]),
            discard=fields["discard"] == b"1",
            extradata=fields.get("extradata"),
        )
    except KeyError as error:
        raise MessageError(f"{what}: header {error} is missing") from error
    except (ValueError, ZeroDivisionError) as error:
        raise MessageError(f"{what}: unreadable header ({error})") from error
