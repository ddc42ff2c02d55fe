"""Coded pictures as MP4, without re-encoding: fragments for live players, and files that play from a given time.

FFmpeg writes the track description (through PyAV); a fragment of one picture is written here, so that it can be sent
immediately: FFmpeg's own muxer waits for the next picture.

Sources: ISO/IEC 14496-12 (8.8 movie fragments, 8.3.2 the track header and its matrix), 14496-15 (avcC, hvcC); RFC 6381 and
the codecs' own documents for codec names in MIME types.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
from av.video.stream import VideoStream

from codecflow.errors import SourceError
from codecflow.messages import ANNEX_B_CODECS, CodedPicture
from codecflow.orientation import matrix, shown_size

from .annexb import nal_type, split_annex_b

PLAYABLE = frozenset({"h264", "hevc", "av1", "vp9"})
"""Codecs that some browser can play from fragments."""

_FINEST = 1_000_000
"""Maximum units per second of a track: finer clocks would overflow the 32 bits that a fragment has for durations."""

_FORMATS = {"h264": "h264", "hevc": "hevc", "av1": "ivf", "vp9": "ivf", "mpeg4": "m4v", "mjpeg": "mjpeg"}
"""FFmpeg's name of a container in which a single keyframe is a valid file."""

_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
_DELIMITER = b"\x12\0"
_DELIMITERS = {"h264": 9, "hevc": 35}
_FAILURES = (av.error.FFmpegError, ValueError, IndexError, OverflowError, struct.error)
_KEY, _NOT_KEY = 0x02000000, 0x01010000
_LONGEST_S = 10


@dataclass(frozen=True, slots=True)
class Init:
    """The track description, which a player needs before fragments. `mime`: its type for MediaSource. `size`: (width,
    height) as shown. `shift_s`: media time is presentation stamps in seconds plus this."""

    data: bytes
    mime: str
    codec: str
    size: tuple[int, int]
    epoch: int
    shift_s: int


@dataclass(frozen=True, slots=True)
class Fragment:
    """One picture. `time_s`: its media time."""

    data: bytes
    keyframe: bool
    time_s: float
    seq: int
    captured_at_ms: int


class Fragmenter:
    """Converts one stream's coded pictures, in decode order, to fragments. It starts at a keyframe, and restarts at the next
    one after a gap, after a picture with an impossible time, or with a new epoch; pictures that are shown before that
    keyframe are left out, because they refer to missing ones. A new Init comes whenever the track description changes: size,
    codec, parameter sets.
    """

    def __init__(self) -> None:
        self._description: tuple[object, ...] | None = None
        self._sets: frozenset[bytes] = frozenset()
        self._timescale, self._base = 1, Fraction(1)
        self._epoch: int | None = None
        self._next_seq: int | None = None
        self._start_pts: int | None = None  # of the keyframe where it began; None: waiting for a keyframe
        self._shift_s = 0
        self._count = 0
        self._dts: int | None = None
        self._duration = 0
        self._newest: int | None = None  # the largest presentation stamp so far, in the track's units
        self._step = 0

    def push(self, picture: CodedPicture) -> list[Init | Fragment]:
        """Output for a picture: nothing, a fragment, or an Init and a fragment. Raises SourceError when its keyframe cannot
        describe a track."""
        if picture.epoch != self._epoch:
            self._epoch, self._description, self._start_pts = picture.epoch, None, None
        elif self._next_seq is not None and picture.seq != self._next_seq:
            self._start_pts = None
        self._next_seq = picture.seq + 1
        if self._start_pts is None:
            if not picture.keyframe:
                return []
            self._start_pts = picture.pts
        elif picture.pts < self._start_pts:
            return []
        units = list(split_annex_b(picture.data)) if picture.codec in ANNEX_B_CODECS else None
        parts: list[Init | Fragment] = []
        if picture.keyframe and (init := self._describe(picture, units)) is not None:
            parts.append(init)
        try:
            parts.append(self._fragment(picture, units))
        except struct.error:  # a time that no fragment can hold, such as one of a foreign record
            self._description = self._start_pts = None
            return []
        return parts

    def _describe(self, picture: CodedPicture, units: list[bytes] | None) -> Init | None:
        own = _parameter_sets(units, picture.codec) if units is not None else picture.extradata
        description = _description(picture, own)
        if description == self._description:
            return None
        try:
            if picture.codec not in PLAYABLE:
                raise ValueError("no browser plays it")
            data, self._timescale = _init_segment(picture)
            mime = f'video/mp4; codecs="{_codec_name(data)}"'
        except _FAILURES as error:
            raise SourceError(
                f"stream {picture.stream}: its {picture.codec} cannot be put into fragments: {error}", "codec"
            ) from error
        first = self._description is None
        self._description = description
        self._sets = frozenset(own) if isinstance(own, tuple) else frozenset()
        self._base = picture.time_base * self._timescale
        if first:
            # Media time starts at 1 s or later: stamps may be negative, and decoding precedes showing.
            self._shift_s = max(0, int(1 - picture.pts * picture.time_base // 1))
            self._dts = self._newest = None
            self._duration = self._step = 0
        size = shown_size(picture.width, picture.height, picture.orientation)
        return Init(data, mime, picture.codec, size, picture.epoch, self._shift_s)

    def _fragment(self, picture: CodedPicture, units: list[bytes] | None) -> Fragment:
        pts = int(picture.pts * self._base) + self._shift_s * self._timescale
        dts = self._decoding_time(picture, pts)
        if units is None:
            # MP4 does not allow a temporal delimiter of AV1.
            sample = picture.data.removeprefix(_DELIMITER) if picture.codec == "av1" else picture.data
        else:
            # Parameter sets are in the description; MP4 does not allow delimiters.
            drop, delimiter = self._sets, _DELIMITERS[picture.codec]
            sample = b"".join(
                len(unit).to_bytes(4) + unit
                for unit in units
                if unit not in drop and nal_type(unit, picture.codec) != delimiter
            )
        self._count += 1
        flags = _KEY if picture.keyframe else _NOT_KEY
        data = _fragment(self._count & 0xFFFFFFFF, dts, self._duration, pts - dts, flags, sample)
        return Fragment(data, picture.keyframe, pts / self._timescale, picture.seq, picture.captured_at_ms)

    def _decoding_time(self, picture: CodedPicture, pts: int) -> int:
        """Decoding time of a picture; its duration goes to `_duration`. If a decoding time does not follow the previous one
        by the stated duration, a player assumes a break and waits for a keyframe (Media Source Extensions, coded frame
        processing), but the next time is not known yet. So decoding times follow the stream's as closely as that allows, and
        convey only the order."""
        stamp = picture.pts if picture.dts is None else picture.dts
        wanted = int(stamp * self._base) + self._shift_s * self._timescale
        before = self._dts
        dts = (
            max(0, wanted) if before is None else min(max(wanted, before + 1), before + max(1, 2 * self._duration - 1))
        )
        if self._newest is not None and pts > self._newest:
            self._step = pts - self._newest
        self._newest = pts if self._newest is None else max(self._newest, pts)
        duration = int(picture.duration * self._base) or self._step or self._timescale // 25
        self._duration = min(max(duration, 1), _LONGEST_S * self._timescale)
        self._dts = dts
        return dts


def description(picture: CodedPicture) -> tuple[object, ...]:
    """What a keyframe contributes to its track description: pictures with another one need another track."""
    if picture.codec in ANNEX_B_CODECS:
        return _description(picture, _parameter_sets(list(split_annex_b(picture.data)), picture.codec))
    return _description(picture, picture.extradata)


def _description(picture: CodedPicture, own: object) -> tuple[object, ...]:
    return picture.codec, own, picture.width, picture.height, picture.orientation, picture.time_base


@contextmanager
def track_of(picture: CodedPicture) -> Iterator[VideoStream]:
    """The track described by a keyframe, for muxers to use as a template. Raises FFmpegError, ValueError."""
    form = _FORMATS.get(picture.codec)
    if form is None:
        raise ValueError(f"no MP4 of {picture.codec}")
    data = _ivf(picture) if form == "ivf" else picture.data
    if picture.codec == "mpeg4":
        data = (picture.extradata or b"") + data
    with av.open(io.BytesIO(data), format=form, options={"fflags": "nobuffer"}) as container:
        if not container.streams.video:
            raise ValueError("no video in its keyframe")
        track = container.streams.video[0]
        if picture.extradata:
            track.codec_context.extradata = picture.extradata
        yield track


def _ivf(picture: CodedPicture) -> bytes:
    codec = {"av1": b"AV01", "vp9": b"VP90"}[picture.codec]
    data = picture.data
    if picture.codec == "av1" and not data.startswith(_DELIMITER):
        data = _DELIMITER + data  # FFmpeg needs it to find the start of the unit
    header = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, codec, picture.width, picture.height, 25, 1, 1, 0)
    return header + struct.pack("<IQ", len(data), 0) + data


def _parameter_sets(units: list[bytes], codec: str) -> tuple[bytes, ...]:
    return tuple(unit for unit in units if nal_type(unit, codec) in _SETS[codec])


def _init_segment(picture: CodedPicture) -> tuple[bytes, int]:
    """(ftyp and moov, units per second of the track)."""
    written = io.BytesIO()
    options = {"movflags": "empty_moov+default_base_moof+frag_custom", "use_editlist": "0", "write_tmcd": "0"}
    with track_of(picture) as track, av.open(written, "w", format="mp4", options=options) as target:
        copy = target.add_stream_from_template(track, opaque=True)
        copy.time_base = Fraction(1, min(picture.time_base.denominator, _FINEST))
        target.start_encoding()
        data = bytearray(written.getvalue())
    at = data.index(b"mdhd") + 4
    timescale = struct.unpack_from(">I", data, at + (20 if data[at] else 12))[0]
    turn_track(data, picture)
    return bytes(data), timescale


def turn_track(data: bytearray, picture: CodedPicture) -> None:
    """Writes the orientation of the pictures into the track header in `data`."""
    at = data.index(b"tkhd") + 4
    at += 52 if data[at] else 40
    a, b, c, d = matrix(picture.orientation)
    width, height = picture.width, picture.height
    # Moved so that the rotated picture lies to the right of and below the origin.
    x, y = (
        -min(0, a * width, c * height, a * width + c * height),
        -min(0, b * width, d * height, b * width + d * height),
    )
    fixed = [a << 16, b << 16, 0, c << 16, d << 16, 0, x << 16, y << 16, 1 << 30]
    struct.pack_into(">9i", data, at, *fixed)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _fragment(number: int, dts: int, duration: int, offset: int, flags: int, sample: bytes) -> bytes:
    """moof and mdat of one sample. `offset`: composition time minus decoding time."""
    head = _box(b"mfhd", struct.pack(">II", 0, number))
    track = _box(b"tfhd", struct.pack(">II", 0x020000, 1))  # offsets count from the moof
    time = _box(b"tfdt", struct.pack(">IQ", 0x01000000, dts))
    length = 8 + len(head) + 8 + len(track) + len(time) + 36 + 8
    # Data offset, then duration, size, flags and offset of each sample, the last one signed (version 1).
    run = _box(b"trun", struct.pack(">IIiIIIi", 0x01000F01, 1, length, duration, len(sample), flags, offset))
    return _box(b"moof", head, _box(b"traf", track, time, run)) + _box(b"mdat", sample)


def _codec_name(init: bytes) -> str:
    """The codec of a track description, in MIME type notation."""
    for kind, name in ((b"avcC", _avc), (b"hvcC", _hevc), (b"av1C", _av1), (b"vpcC", _vp9)):
        at = init.find(kind)
        if at > 0:
            return name(init[at + 4 :])
    raise ValueError("no description of the codec")


def _avc(box: bytes) -> str:
    return f"avc1.{box[1:4].hex()}"


def _hevc(box: bytes) -> str:
    space, tier, profile = box[1] >> 6, box[1] >> 5 & 1, box[1] & 31
    compatible = int(f"{int.from_bytes(box[2:6]):032b}"[::-1], 2)
    constraints = box[6:12].rstrip(b"\0")
    parts = [f"{'ABC'[space - 1] if space else ''}{profile}", f"{compatible:X}", f"{'LH'[tier]}{box[12]}"]
    return ".".join(["hev1", *parts, *(f"{byte:X}" for byte in constraints)])


def _av1(box: bytes) -> str:
    profile, level = box[1] >> 5, box[1] & 31
    tier, high, twelve = box[2] >> 7, box[2] >> 6 & 1, box[2] >> 5 & 1
    return f"av01.{profile}.{level:02}{'MH'[tier]}.{8 + 2 * high + 2 * (high & twelve):02}"


def _vp9(box: bytes) -> str:
    profile, level, depth = box[4], box[5], box[6] >> 4
    return f"vp09.{profile:02}.{level or 10:02}.{depth:02}"
