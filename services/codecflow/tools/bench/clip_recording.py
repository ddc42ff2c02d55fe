"""Recordings: the records of clips, made once by the producer's own code, for cameras that publish them repeatedly.

A clip is read twice in a row in one epoch, as by `codecflow produce --loop`. The records of the second pass are stored: its
first picture refers to the last one of the previous loop. Cameras repeat that loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import msgspec
import orjson

from codecflow.codec.signal import DEFAULT_INTERVAL
from codecflow.codec.source import Source
from codecflow.errors import ConfigError, MessageError, SourceError
from codecflow.kafka.records import Record
from codecflow.kafka.settings import TopicNames
from codecflow.messages import CodedPicture, decode_metadata, decode_packet
from codecflow.producer.epoch import EpochPublisher
from codecflow.producer.summary import Summary

LOOP = Fraction(8)
"""Loops last a multiple of this many seconds, or of the signal's interval if a clip is shorter. Periodic events of a stream
(anchors, the signal's reference pictures) then fall on the same pictures in every loop."""

_VERSION = 1
_MAGIC = b"codecflow bench pipeline recording\n"
_LARGEST_RECORD = 64 << 20


class RecordedPicture(msgspec.Struct, frozen=True, array_like=True):
    """The two records of one picture. `captured`, `due`: seconds from the loop's start to its capture and its publication.
    `time`: its presentation time in the epoch. `keyframe`: a camera may start here."""

    captured: float
    due: float
    time: float
    keyframe: bool
    value: bytes
    header: bytes
    extradata: bytes | None
    document: bytes


class RecordedClip(msgspec.Struct, frozen=True):
    """One loop of a clip, of `seconds`. From one loop to the next, times increase by `units`, ticks by `ticks`, and seq by
    `seqs`."""

    name: str
    codec: str
    width: int
    height: int
    seconds: float
    units: int
    ticks: int
    seqs: int
    pictures: list[RecordedPicture]

    @property
    def rate(self) -> float:
        """Pictures per second."""
        return len(self.pictures) / self.seconds

    @property
    def bytes_per_s(self) -> float:
        return sum(len(one.value) for one in self.pictures) / self.seconds


class _File(msgspec.Struct, frozen=True):
    version: int
    clips: list[RecordedClip]


class _Collector:
    """Replaces a producer's senders: stores what is published and when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.records: list[tuple[float, Record]] = []

    def send(self, record: Record) -> None:
        self.records.append((self.now, record))

    def flush(self) -> None:
        pass


def record_clip(path: Path, interval: Fraction = DEFAULT_INTERVAL) -> RecordedClip:
    """The records of a clip. Raises SourceError when it cannot be read or is shorter than a signal interval."""
    packets, metadata = _Collector(), _Collector()
    publisher = EpochPublisher(
        "bench", 1, interval, (packets, metadata), TopicNames("bench"), _LARGEST_RECORD, Summary("bench", str(path))
    )
    loop, opening, base, scale = _loop(path, interval)
    units = int(loop / base)
    captured: dict[int, float] = {}
    seq = seqs = 0
    first: CodedPicture | None = None
    for number in range(2):
        first_seq, begin = seq, None
        with Source(str(path)) as source:
            for picture in source.pictures("bench", 1, seq):
                dts = picture.pts if picture.dts is None else picture.dts
                begin = dts if begin is None else begin
                if (picture.pts - opening) * scale >= units:
                    break
                now = float((dts - begin) * picture.time_base) + number * float(loop)
                packets.now = metadata.now = captured[picture.seq] = now
                shift = number * units
                publisher.push(
                    replace(
                        picture,
                        pts=picture.pts * scale + shift,
                        dts=None if picture.dts is None else picture.dts * scale + shift,
                        duration=picture.duration * scale,
                        time_base=base,
                        live=True,
                    )
                )
                seq, first = picture.seq + 1, first or picture
        if number == 0:
            seqs = seq
        elif seq - first_seq != seqs:
            raise SourceError(f"source {path}: its pictures are not the same when it is read again", "read")
    packets.now = metadata.now = 2 * float(loop)
    publisher.finish()
    assert first is not None  # _loop guarantees one
    clip = RecordedClip(
        path.name, first.codec, first.width, first.height, float(loop), units, int(loop / interval), seqs, []
    )
    _fill(clip, packets.records, metadata.records, captured)
    if not any(picture.keyframe for picture in clip.pictures):
        raise SourceError(f"source {path}: no picture of it can be decoded; give an intact video file", "codec")
    return clip


def _loop(path: Path, interval: Fraction) -> tuple[Fraction, int, Fraction, int]:
    """The length of a loop in seconds, its first pts, the time base in which the length is an integer, and the number of its
    units per unit of the clip's time base."""
    with Source(str(path)) as source:
        base = source.time_base
        begin = end = None
        for picture in source.pictures("bench", 1):
            base = picture.time_base
            begin = picture.pts if begin is None else min(begin, picture.pts)
            end = picture.pts + picture.duration if end is None else max(end, picture.pts + picture.duration)
    if begin is None or end is None:
        raise SourceError(f"source {path}: no picture of its video track could be read", "codec")
    lasts = (end - begin) * base
    step = LOOP if lasts >= LOOP else interval
    loop = lasts // step * step
    if not loop:
        raise SourceError(f"source {path}: {float(lasts):g} s are less than a signal interval", "codec")
    common = Fraction(
        math.gcd(base.numerator * interval.denominator, interval.numerator * base.denominator),
        base.denominator * interval.denominator,
    )
    return loop, begin, common, int(base / common)


def _fill(
    clip: RecordedClip,
    packets: Sequence[tuple[float, Record]],
    metadata: Sequence[tuple[float, Record]],
    captured: dict[int, float],
) -> None:
    for (due, packet), (_, document) in zip(packets, metadata, strict=True):
        headers = dict(packet.headers or [])
        header, fields = orjson.loads(headers["picture"]), orjson.loads(document.value or b"")
        if header["seq"] < clip.seqs:
            continue
        clip.pictures.append(
            RecordedPicture(
                captured=captured[header["seq"]] - clip.seconds,
                due=due - clip.seconds,
                time=float((header["pts"] - fields["start"]) * Fraction(*header["time_base"])),
                keyframe=bool(header.get("keyframe")),
                value=packet.value or b"",
                header=headers["picture"],
                extradata=headers.get("extradata"),
                document=document.value or b"",
            )
        )


def save_recording(file: Path, clips: Sequence[RecordedClip]) -> None:
    """Raises ConfigError when it cannot be written."""
    try:
        file.write_bytes(_MAGIC + msgspec.msgpack.encode(_File(_VERSION, list(clips))))
    except OSError as error:
        raise ConfigError(f"recording {file}: cannot be written ({error.strerror})") from error


def load_recording(file: Path) -> list[RecordedClip]:
    """Raises ConfigError if the file is not a recording."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"recording {file}: cannot be read ({error.strerror})") from error
    if not data.startswith(_MAGIC):
        raise ConfigError(f"recording {file}: not a file that codecflow bench pipeline --record has written")
    try:
        found = msgspec.msgpack.decode(memoryview(data)[len(_MAGIC) :], type=_File)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"recording {file}: damaged ({error}); record it again") from error
    if found.version != _VERSION or not found.clips:
        raise ConfigError(f"recording {file}: of another version; record it again")
    return found.clips


def check_recording(file: Path, clips: Sequence[RecordedClip]) -> None:
    """Raises ConfigError if a worker of this version cannot read what the cameras would publish."""
    for clip in clips:
        for one in clip.pictures:
            extradata = [] if one.extradata is None else [("extradata", one.extradata)]
            try:
                decode_packet(b"bench", one.value, [("picture", one.header), *extradata])
                decode_metadata(b"bench", one.document)
            except MessageError as error:
                raise ConfigError(f"recording {file}: of another version ({error}); record it again") from error


def describe_clips(clips: Iterable[RecordedClip]) -> list[str]:
    """A short description of each clip."""
    return [
        f"{clip.name}: {clip.width}x{clip.height} {clip.codec}, {clip.rate:.3g} pictures/s, "
        f"{8 * clip.bytes_per_s / 1e6:.2f} Mbit/s, loops of {clip.seconds:g} s"
        for clip in clips
    ]
