"""Cameras for benchmarks: recorded clips published in real time, many times over, with continuous times and sequence
numbers.

Cameras repeat the loop of their clip; consumers join them in the middle of an epoch.
"""

from __future__ import annotations

import heapq
import math
import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import msgspec
import orjson
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE

from codecflow.errors import KafkaError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import partition_of
from codecflow.producer.run import METADATA_PROPERTIES
from codecflow.tools.bench.clip_recording import RecordedClip, load_recording

PACKETS_LINGER_S = 0.05
METADATA_LINGER_S = float(METADATA_PROPERTIES["linger.ms"]) / 1000

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Published:
    """The records of one picture, ready to send: key and value of both, headers of the packet."""

    due: float
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    document: bytes


class Camera:
    """A clip as a camera: its loop repeated in one epoch, in real time, starting at the keyframe at fraction `place` (0 to
    1) of the loop."""

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
        """Publishes its first picture at monotonic time `begin`, which is `wall_s` in seconds since 1970."""
        self._begin, self._wall_s = begin, wall_s

    @property
    def due(self) -> float:
        """When to publish its next picture, in monotonic seconds."""
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
    """`count` cameras that cycle through some clips. Each starts at another place of its clip, and the ends of their windows
    are spread evenly over a stride of `stride_s` seconds."""

    def __init__(self, clips: Sequence[RecordedClip], count: int, stride_s: float, epoch: int) -> None:
        self.cameras = [
            Camera(f"camera-{number}", clips[number % len(clips)], number * _GOLDEN, epoch) for number in range(count)
        ]
        self._stride_s = stride_s
        self._next: list[tuple[float, int]] = []

    def start(self, begin: float) -> None:
        """Starts all cameras within one stride from monotonic time `begin`."""
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

    def take(self, now: float, limit: int) -> Iterator[Published]:
        """The pictures due by `now`, at most `limit`."""
        for _ in range(limit):
            if self._next[0][0] > now:
                return
            number = self._next[0][1]
            camera = self.cameras[number]
            yield camera.take()
            heapq.heapreplace(self._next, (camera.due, number))


class LoadFigures(msgspec.Struct, frozen=True):
    """What cameras have published. `late_s`: the maximum delay of a picture since the last figures."""

    pictures: int = 0
    nbytes: int = 0
    cpu_s: float = 0.0
    late_s: float = 0.0


class PipedRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record of topic 0 (packets) or 1 (metadata), as a consumer returns it."""

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
    """Where cameras publish to."""

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
    """Sends to a worker without brokers. Records leave a producer with a delay of up to its client's linger time."""

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
    """Cameras in a separate process, which publish to brokers (`settings`), or else to `pipe`.

    A single client with the producer's properties publishes for all of them: one per camera would mean a thousand threads.
    Its batches are therefore larger than those of individual producers.
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
        """Waits until it is ready to start. Raises KafkaError when it cannot start."""
        if not self._pipe.poll(within_s):
            raise KafkaError("the process of the cameras does not start")
        self._receive()

    def start(self, begin: float) -> None:
        self._pipe.send(begin)

    def update(self) -> LoadFigures:
        """The latest figures. Raises KafkaError when the process has failed."""
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
    except Exception as error:  # noqa: BLE001  # sent to the benchmark
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
