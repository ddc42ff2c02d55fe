"""Cameras for benchmarks: the records of clips, made once by the producer's own code and published in real time, many times
over, with times and numbers that go on.

A clip is read twice in a row in one epoch, as `codecflow produce --loop` does. What the second pass publishes is recorded:
its first picture is measured against the last one of the loop before. Cameras repeat that loop; they are joined in
the middle of an epoch.
"""

from __future__ import annotations

import heapq
import math
import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import msgspec
import orjson
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE

from codecflow.codec.signal import DEFAULT_INTERVAL
from codecflow.codec.source import Source
from codecflow.errors import ConfigError, KafkaError, MessageError, SourceError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings, TopicNames
from codecflow.kafka.topics import partition_of
from codecflow.messages import CodedPicture, decode_metadata, decode_packet
from codecflow.producer.epoch import EpochPublisher
from codecflow.producer.run import METADATA_PROPERTIES
from codecflow.producer.summary import Summary

LOOP = Fraction(8)
"""Loops last a multiple of this many seconds, or of the signal's interval where a clip is shorter. What occurs once in that
time in a stream (anchors, the signal's reference pictures) then lies alike in every loop."""

PACKETS_LINGER_S = 0.05
METADATA_LINGER_S = float(METADATA_PROPERTIES["linger.ms"]) / 1000

_VERSION = 1
_MAGIC = b"codecflow bench pipeline recording\n"
_GOLDEN = (math.sqrt(5) - 1) / 2
_LARGEST_RECORD = 64 << 20


class RecordedPicture(msgspec.Struct, frozen=True, array_like=True):
    """The two records of one picture. `captured`, `due`: seconds since the loop's start at which it was captured and
    published. `time`: its presentation time in the epoch. `keyframe`: a camera may begin here."""

    captured: float
    due: float
    time: float
    keyframe: bool
    value: bytes
    header: bytes
    extradata: bytes | None
    document: bytes


class RecordedClip(msgspec.Struct, frozen=True):
    """One loop of a clip, of `seconds`. From one loop to the next `units` are added to times, `ticks` to ticks, and `seqs`
    to seq."""

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
    """In place of a producer's senders: keeps what is published and when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.records: list[tuple[float, Record]] = []

    def send(self, record: Record) -> None:
        self.records.append((self.now, record))

    def flush(self) -> None:
        pass


def record_clip(path: Path, interval: Fraction = DEFAULT_INTERVAL) -> RecordedClip:
    """The records of a clip. Raises SourceError where it cannot be read or is shorter than a signal interval."""
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
    assert first is not None  # _loop has found some
    clip = RecordedClip(
        path.name, first.codec, first.width, first.height, float(loop), units, int(loop / interval), seqs, []
    )
    _fill(clip, packets.records, metadata.records, captured)
    if not any(picture.keyframe for picture in clip.pictures):
        raise SourceError(f"source {path}: no picture of it can be decoded; give a sound video file", "codec")
    return clip


def _loop(path: Path, interval: Fraction) -> tuple[Fraction, int, Fraction, int]:
    """Seconds of a loop, the first pts in it, the time base in which it is a whole number, and how many units of it one of
    the clip's has."""
    with Source(str(path)) as source:
        base = source.time_base
        begin = end = None
        for picture in source.pictures("bench", 1):
            base = picture.time_base
            begin = picture.pts if begin is None else min(begin, picture.pts)
            end = picture.pts + picture.duration if end is None else max(end, picture.pts + picture.duration)
    if begin is None or end is None:
        raise SourceError(f"source {path}: not one picture of its video track could be read", "codec")
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
    """Raises ConfigError where it cannot be written."""
    try:
        file.write_bytes(_MAGIC + msgspec.msgpack.encode(_File(_VERSION, list(clips))))
    except OSError as error:
        raise ConfigError(f"recording {file}: cannot be written ({error.strerror})") from error


def load_recording(file: Path) -> list[RecordedClip]:
    """Raises ConfigError on anything that is no recording."""
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
    """Raises ConfigError where a worker of this version cannot read what the cameras would publish."""
    for clip in clips:
        for one in clip.pictures:
            extradata = [] if one.extradata is None else [("extradata", one.extradata)]
            try:
                decode_packet(b"bench", one.value, [("picture", one.header), *extradata])
                decode_metadata(b"bench", one.document)
            except MessageError as error:
                raise ConfigError(f"recording {file}: of another version ({error}); record it again") from error


@dataclass(frozen=True, slots=True)
class Published:
    """The records of one picture on their way: key and value of both, headers of the packet."""

    due: float
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    document: bytes


class Camera:
    """A clip as a camera: its loop again and again in one epoch, in real time, from the keyframe on that lies at `place` (0
    to 1) of the loop."""

    def __init__(self, stream: str, clip: RecordedClip, place: float, epoch: int) -> None:
        self.stream, self.clip, self.epoch = stream, clip, epoch
        keyframes = [index for index, one in enumerate(clip.pictures) if one.keyframe]
        self._index = keyframes[int(place % 1 * len(keyframes))]
        self._loops = 0
        self._origin = clip.pictures[self._index].due
        self._begin = self._wall_s = 0.0
        self.begins_at = clip.pictures[self._index].time
        """Presentation time of its first picture."""

    def start(self, begin: float, wall_s: float) -> None:
        """It publishes its first picture at monotonic time `begin`, which is `wall_s` in seconds since 1970."""
        self._begin, self._wall_s = begin, wall_s

    @property
    def due(self) -> float:
        """When its next picture is to be published, in monotonic seconds."""
        return self._begin + self._loops * self.clip.seconds + self.clip.pictures[self._index].due - self._origin

    def take(self) -> Published:
        """Its next picture."""
        clip, due, loops = self.clip, self.due, self._loops
        one = clip.pictures[self._index]
        captured_s = loops * clip.seconds + one.captured - self._origin
        units, seqs = loops * clip.units, loops * clip.seqs
        header: dict[str, Any] = orjson.loads(one.header)
        header["epoch"] = self.epoch
        header["seq"] += seqs
        header["pts"] += units
        if header.get("dts") is not None:
            header["dts"] += units
        header["captured_at_ms"] = int(1000 * (self._wall_s + captured_s))
        document: dict[str, Any] = orjson.loads(one.document)
        document["epoch"] = self.epoch
        document["seq"] += seqs
        document["pts"] += units
        if (signal := document.get("signal")) is not None:
            for name in _TICKS:
                if signal.get(name) is not None:
                    signal[name] += loops * clip.ticks
        headers = [("picture", orjson.dumps(header))]
        if one.extradata is not None:
            headers.append(("extradata", one.extradata))
        self._index += 1
        if self._index == len(clip.pictures):
            self._index, self._loops = 0, self._loops + 1
        return Published(due, self.stream.encode(), one.value, headers, orjson.dumps(document))


_TICKS = ("tick", "since", "after")


class Cameras:
    """`count` cameras of some clips, in turn. Each begins elsewhere in its clip, and their windows close evenly spread over
    a stride of `stride_s` seconds."""

    def __init__(self, clips: Sequence[RecordedClip], count: int, stride_s: float, epoch: int) -> None:
        self.cameras = [
            Camera(f"camera-{number}", clips[number % len(clips)], number * _GOLDEN, epoch) for number in range(count)
        ]
        self._stride_s = stride_s
        self._next: list[tuple[float, int]] = []

    def start(self, begin: float) -> None:
        """They begin within a stride from monotonic time `begin` on."""
        since_1970 = time.time() - time.monotonic()
        for number, camera in enumerate(self.cameras):
            phase = number * self._stride_s / len(self.cameras)
            at = begin + (phase + camera.begins_at) % self._stride_s
            camera.start(at, at + since_1970)
        self._next = [(camera.due, number) for number, camera in enumerate(self.cameras)]
        heapq.heapify(self._next)

    @property
    def due(self) -> float:
        return self._next[0][0]

    def take(self, now: float, most: int) -> Iterator[Published]:
        """What is to be published by `now`, at most `most` pictures."""
        for _ in range(most):
            if self._next[0][0] > now:
                return
            number = self._next[0][1]
            camera = self.cameras[number]
            yield camera.take()
            heapq.heapreplace(self._next, (camera.due, number))


class LoadFigures(msgspec.Struct, frozen=True):
    """What cameras have published. `late_s`: how much later than due the latest picture went out since the last figures."""

    pictures: int = 0
    nbytes: int = 0
    cpu_s: float = 0.0
    late_s: float = 0.0


class PipedRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record of topic 0 (packets) or 1 (metadata), as a consumer gives it."""

    topic: int
    partition: int
    place: int
    name: bytes
    content: bytes
    fields: list[tuple[str, bytes]] | None

    def key(self) -> bytes | None:
        return self.name

    def value(self) -> bytes | None:
        return self.content

    def headers(self) -> Any:
        return self.fields

    def offset(self) -> int | None:
        return self.place

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_NOT_AVAILABLE, 0


class _Sink(Protocol):
    """Where cameras publish."""

    def publish(self, one: Published, now: float) -> None: ...

    def poll(self, now: float) -> None: ...


class _KafkaSink:
    def __init__(self, settings: KafkaSettings) -> None:
        self._topics = settings.topics
        self._packets = RecordSender(settings, lambda: False, **{"compression.type": "zstd", "compression.level": 1})
        self._metadata = RecordSender(settings, lambda: False, **METADATA_PROPERTIES)

    def publish(self, one: Published, now: float) -> None:
        self._packets.send(Record(self._topics.packets, one.key, one.value, "a picture", one.headers))
        self._metadata.send(Record(self._topics.metadata, one.key, one.document, "metadata"))

    def poll(self, now: float) -> None:
        self._packets.poll(0.0)
        self._metadata.poll(0.0)


class _PipeSink:
    """To a worker without brokers. Records leave a producer as late as its client's linger time lets them."""

    def __init__(self, pipe: Connection, partitions: int) -> None:
        self._pipe, self._partitions = pipe, partitions
        self._waiting: deque[tuple[float, list[PipedRecord]]] = deque()
        self._documents: dict[bytes, tuple[float, list[Published]]] = {}
        self._offsets: Counter[tuple[int, int]] = Counter()
        self._encode = msgspec.msgpack.Encoder().encode

    def publish(self, one: Published, now: float) -> None:
        self._waiting.append((now + PACKETS_LINGER_S, [self._record(0, one.key, one.value, one.headers)]))
        self._documents.setdefault(one.key, (now + METADATA_LINGER_S, []))[1].append(one)

    def poll(self, now: float) -> None:
        ready: list[PipedRecord] = []
        while self._waiting and self._waiting[0][0] <= now:
            ready += self._waiting.popleft()[1]
        for key in [key for key, (at, _) in self._documents.items() if at <= now]:
            ready += [self._record(1, key, one.document, None) for one in self._documents.pop(key)[1]]
        if ready:
            self._pipe.send_bytes(len(ready).to_bytes(4, "little") + self._encode(ready))

    def _record(self, topic: int, key: bytes, value: bytes, headers: list[tuple[str, bytes]] | None) -> PipedRecord:
        place = (topic, partition_of(key.decode(), self._partitions))
        self._offsets[place] += 1
        return PipedRecord(*place, self._offsets[place] - 1, key, value, headers)


@dataclass(frozen=True, slots=True)
class Load:
    """`count` cameras of the clips in the file `recording`, whose windows move by `stride_s`, in epoch `epoch`."""

    recording: str
    count: int
    stride_s: float
    epoch: int


class CameraProcess:
    """Cameras in a process of their own, which publish to brokers (`settings`), or else to `pipe`.

    One client publishes for all of them, with the producer's properties: one for each would be a thousand threads. Batches
    are then larger than those of single producers.
    """

    def __init__(self, load: Load, to: KafkaSettings | tuple[Connection, int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        target = (to.bootstrap_servers, to.topic_prefix) if isinstance(to, KafkaSettings) else to
        self._process = context.Process(target=_publish, args=(load, target, theirs), daemon=True, name="cameras")
        self._process.start()
        theirs.close()
        self.figures = LoadFigures()

    def ready(self, within_s: float = 60.0) -> None:
        """Waits until it can begin. Raises KafkaError when it cannot."""
        if not self._pipe.poll(within_s):
            raise KafkaError("the process of the cameras does not start")
        self._receive()

    def start(self, begin: float) -> None:
        self._pipe.send(begin)

    def update(self) -> LoadFigures:
        """The newest figures. Raises KafkaError when the process has failed."""
        late_s = 0.0
        while self._pipe.poll():
            self._receive()
            late_s = max(late_s, self.figures.late_s)
        self.figures = msgspec.structs.replace(self.figures, late_s=late_s)
        return self.figures

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> None:
        try:
            found = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise KafkaError("the process of the cameras has ended early") from None
        if isinstance(found, str):
            raise KafkaError(f"the cameras have failed: {found}")
        self.figures = found


def _publish(load: Load, to: tuple[str, str] | tuple[Connection, int], pipe: Connection) -> None:
    try:
        sink: _Sink
        match to:
            case (str() as servers, str() as prefix):
                sink = _KafkaSink(KafkaSettings(servers, prefix))
            case (Connection() as data, int() as partitions):
                sink = _PipeSink(data, partitions)
        cameras = Cameras(load_recording(Path(load.recording)), load.count, load.stride_s, load.epoch)
        pipe.send(LoadFigures())
        cameras.start(pipe.recv())
        _run(cameras, sink, pipe)
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # the benchmark is over
    except Exception as error:  # noqa: BLE001  # goes to the benchmark
        with suppress(OSError):
            pipe.send(f"{type(error).__name__}: {error}")


def _run(cameras: Cameras, sink: _Sink, pipe: Connection) -> None:
    pictures = nbytes = 0
    late = 0.0
    report_at = time.monotonic()
    while True:
        now = time.monotonic()
        for one in cameras.take(now, 1000):
            late = max(late, now - one.due)
            sink.publish(one, now)
            pictures += 1
            nbytes += len(one.value)
        sink.poll(now)
        if now >= report_at:
            if pipe.poll():
                pipe.recv()  # raises once the other end is closed
            pipe.send(LoadFigures(pictures, nbytes, time.process_time(), late))
            report_at, late = now + 0.5, 0.0
        time.sleep(0.01)


def told(clips: Iterable[RecordedClip]) -> list[str]:
    """Each clip in a few words."""
    return [
        f"{clip.name}: {clip.width}x{clip.height} {clip.codec}, {clip.rate:.3g} pictures/s, "
        f"{8 * clip.bytes_per_s / 1e6:.2f} Mbit/s, loops of {clip.seconds:g} s"
        for clip in clips
    ]
