"""How damaged streams are handled: pictures shown, pictures lost, and damaged pictures shown as valid.

A clip is encoded with each codec, damaged in transit, and sent through the product's source, publisher and decoder. A shown
picture is right if its luma equals that of a picture of the undamaged stream.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from codecflow.codec.decode import Decoder
from codecflow.codec.opening import SourceOptions
from codecflow.codec.pictures import luma_checksum
from codecflow.codec.source import Source
from codecflow.errors import ConfigError, SourceError
from codecflow.kafka.settings import TopicNames
from codecflow.messages import CodedPicture, PictureMetadata, decode_metadata, decode_packet
from codecflow.producer.epoch import EpochPublisher, RecordCollector
from codecflow.producer.summary import Summary
from codecflow.tools.report.table import print_json, print_table

from .rtsp_camera import lossy_camera

_INTERVAL = Fraction(1, 2)
_TS_PACKET = 188
_TS_HEAD = 20
"""Number of packets at the start that are never lost: programme tables and the start of the first picture."""

_X264 = "scenecut=0:keyint={gop}:bitrate={kbit}"
_X265 = "log-level=none:keyint={gop}:min-keyint={gop}:bitrate={kbit}:pools=none:frame-threads=1"
"""In one thread: x265's pool hung once in an encode of a short clip."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How a clip is encoded: encoder, container, encoder options with {gop} pictures and {kbit} kbit/s."""

    encoder: str
    container: str
    options: dict[str, str]

    @property
    def rtp(self) -> bool:
        return self.encoder in ("libx264", "libx265")


CODECS = {
    "h264": Codec("libx264", "mpegts", {"bf": "2", "x264-params": _X264}),
    "h264-baseline": Codec("libx264", "mpegts", {"bf": "0", "profile": "baseline", "x264-params": _X264}),
    "h264-slices": Codec("libx264", "mpegts", {"bf": "0", "slices": "4", "x264-params": _X264}),
    "h264-open-gop": Codec("libx264", "mpegts", {"bf": "3", "x264-params": _X264 + ":open-gop=1"}),
    "h264-refresh": Codec("libx264", "mpegts", {"bf": "0", "x264-params": _X264 + ":intra-refresh=1"}),
    "hevc": Codec("libx265", "mpegts", {"x265-params": _X265 + ":bframes=0:open-gop=0:wpp=0"}),
    "hevc-open-gop": Codec("libx265", "mpegts", {"x265-params": _X265 + ":bframes=3:open-gop=1"}),
    "mpeg2": Codec("mpeg2video", "mpegts", {"bf": "2", "b": "{kbit}k"}),
    "mpeg4": Codec("mpeg4", "mpegts", {"bf": "2", "b": "{kbit}k"}),
    "vp9": Codec("libvpx-vp9", "matroska", {"deadline": "realtime", "cpu-used": "8", "b": "{kbit}k"}),
    "av1": Codec("libsvtav1", "matroska", {"preset": "12", "svtav1-params": "keyint={gop}", "crf": "40"}),
    "mjpeg": Codec("mjpeg", "matroska", {"qmin": "8", "qmax": "8"}),
}


@dataclass(slots=True)
class Outcome:
    """Pictures of one kind of damage, over all seeds. `sent`: in the undamaged stream. `shown`: by a reader of what was
    published. `wrong`: shown pictures whose samples match no undamaged picture. `bounds`: signals measured on wrong samples;
    `differ`: shown pictures whose samples differ from those of their signal."""

    sent: int = 0
    published: int = 0
    shown: int = 0
    wrong: int = 0
    bounds: int = 0
    differ: int = 0

    def add(self, other: Outcome) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def run(clip: Path, *, seed: int, repeats: int, seconds: float, codecs: Sequence[str]) -> None:
    """Prints a table, then one JSON line. Raises ConfigError and SourceError."""
    if unknown := [codec for codec in codecs if codec not in CODECS]:
        raise ConfigError(f"--codecs {unknown[0]}: use some of {', '.join(CODECS)}")
    frames, rate = _frames(clip, seconds)
    outcomes: dict[str, dict[str, Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="codecflow-damage-") as folder:
        for codec in codecs:
            sound = encode(frames, rate, CODECS[codec], Path(folder) / codec)
            outcomes[codec] = measure(sound, CODECS[codec], seed, repeats)
    rows = [
        (f"{codec}, {damage}", one.sent, one.published, one.shown, one.wrong, one.differ)
        for codec, kinds in outcomes.items()
        for damage, one in kinds.items()
    ]
    print_table(
        f"{clip.name}: {len(frames)} pictures, {repeats} times, seeds from {seed}",
        ["", "sent", "published", "shown", "of them wrong", "unlike their signal"],
        rows,
        note="wrong: the luma samples are those of no picture of the undamaged stream",
    )
    document = {
        codec: {damage: {name: getattr(one, name) for name in one.__slots__} for damage, one in kinds.items()}
        for codec, kinds in outcomes.items()
    }
    print_json({"clip": clip.name, "seed": seed, "repeats": repeats, "pictures": len(frames), "damage": document})


def measure(sound: Path, codec: Codec, seed: int, repeats: int) -> dict[str, Outcome]:
    """Outcomes of every kind of damage done to the file `sound`, which `encode` has written with `codec`."""
    with Source(str(sound)) as source:
        pictures = list(source.pictures("damage", 0))
    right = _right(pictures)
    outcomes: dict[str, Outcome] = {"undamaged": _through(str(sound), right, len(pictures))}
    damaged = sound.with_name("damaged" + sound.suffix)
    for name, damage in _kinds(codec).items():
        outcomes[name] = Outcome()
        for number in range(repeats):
            damaged.write_bytes(damage(sound.read_bytes(), random.Random(f"{seed} {number}")))
            outcomes[name].add(_through(str(damaged), right, len(pictures)))
    for transport, loss in (("udp", 0.01), ("udp", 0.05), ("tcp", 0.01)) if codec.rtp else ():
        name = f"RTP over {transport.upper()}, {100 * loss:g} % lost"
        outcomes[name] = Outcome()
        for number in range(repeats):
            options = SourceOptions(timeout_s=3.0, rtsp_transport=transport)  # type: ignore[arg-type]
            with lossy_camera(pictures, loss, seed + number) as url:
                outcomes[name].add(_through(url, right, len(pictures), options))
    return outcomes


Damage = Callable[[bytes, random.Random], bytes]


def _kinds(codec: Codec) -> dict[str, Damage]:
    kinds: dict[str, Damage] = {}
    if codec.container == "mpegts":
        kinds = {"TS, 1 % lost": _lose(0.01), "TS, 5 % lost": _lose(0.05), "joined in mid-stream": _join}
    return kinds | {"cut": _cut, "10 bytes flipped": _flip}


def _lose(rate: float) -> Damage:
    def damage(data: bytes, chance: random.Random) -> bytes:
        packets = [data[at : at + _TS_PACKET] for at in range(0, len(data), _TS_PACKET)]
        return b"".join(p for index, p in enumerate(packets) if index < _TS_HEAD or chance.random() >= rate)

    return damage


def _join(data: bytes, chance: random.Random) -> bytes:
    packets = len(data) // _TS_PACKET
    return data[chance.randrange(packets // 10, packets // 2) * _TS_PACKET :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) // 4, len(data))]


def _flip(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(10):
        damaged[chance.randrange(len(data) // 20, len(data))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _through(source: str, right: set[int], sent: int, options: SourceOptions | None = None) -> Outcome:
    """What a reader sees of `source`, published and decoded by the product. `right`: checksums of undamaged pictures."""
    packets, metadata = RecordCollector(), RecordCollector()
    publisher = EpochPublisher(
        "damage", 0, _INTERVAL, (packets, metadata), TopicNames("damage"), 2**31, Summary("damage", source)
    )
    try:
        with Source(source, options or SourceOptions()) as opened:
            for picture in opened.pictures("damage", 0):
                publisher.push(picture)
    except SourceError:
        pass  # a file that can no longer be opened, or the camera has ended
    publisher.finish()
    outcome = Outcome(sent=sent, published=len(packets.records))
    documents = [decode_metadata(record.key, record.value) for record in metadata.records]
    signals = {one.seq: one.signal for one in documents if isinstance(one, PictureMetadata) and one.signal}
    outcome.bounds = sum(signal.luma_crc32 not in right for signal in signals.values())
    decoder = Decoder()
    published = [decode_packet(record.key, record.value, record.headers) for record in packets.records]
    for shown in [one for picture in published for one in decoder.push(picture)] + decoder.flush():
        outcome.shown += 1
        outcome.wrong += luma_checksum(shown.luma()) not in right
        signal = signals.get(shown.seq)
        outcome.differ += signal is not None and not shown.matches(signal)
    return outcome


def _right(pictures: Sequence[CodedPicture]) -> set[int]:
    """Checksums of the luma of every picture of the undamaged stream."""
    decoder = Decoder()
    shown = [one for picture in pictures for one in decoder.push(picture)] + decoder.flush()
    return {luma_checksum(one.luma()) for one in shown}


def _frames(clip: Path, seconds: float) -> tuple[list[VideoFrame], Fraction]:
    """The first `seconds` of the clip, decoded, and its rate."""
    try:
        with av.open(str(clip)) as container:
            track = container.streams.video[0]
            rate = Fraction(track.average_rate or 25).limit_denominator(1000)
            frames: list[VideoFrame] = []
            for frame in container.decode(track):
                if len(frames) >= seconds * rate:
                    break
                frames.append(frame.reformat(frame.width & ~1, frame.height & ~1, format="yuv420p"))
            return frames, rate
    except (av.error.FFmpegError, IndexError) as error:
        raise SourceError(f"source {clip}: cannot be decoded; give a video file") from error


def encode(frames: Sequence[VideoFrame], rate: Fraction, codec: Codec, path: Path) -> Path:
    """Encodes the frames to a file, with a keyframe every two seconds and about 0.1 bit per sample."""
    gop = max(2, round(2 * rate))
    kbit = max(100, int(frames[0].width * frames[0].height * rate / 10_000))
    suffix = {"mpegts": ".ts", "matroska": ".mkv"}[codec.container]
    path = path.with_suffix(suffix)
    options = {name: value.format(gop=gop, kbit=kbit) for name, value in codec.options.items()}
    with _default_scheduling(), av.open(str(path), "w", format=codec.container) as container:
        track = cast(VideoStream, container.add_stream(codec.encoder, rate=rate, options=options))
        track.width, track.height = frames[0].width, frames[0].height
        track.pix_fmt = "yuvj420p" if codec.encoder == "mjpeg" else "yuv420p"
        track.codec_context.gop_size, track.codec_context.thread_count = gop, 1
        for index, frame in enumerate(frames):
            image = frame.reformat(format=track.pix_fmt)
            image.pts, image.time_base, image.pict_type = index, 1 / rate, PictureType.NONE
            container.mux(track.encode(image))
        container.mux(track.encode(None))
    return path


@contextmanager
def _default_scheduling() -> Iterator[None]:
    """When run as root, SVT-AV1 leaves the calling thread at real-time priority 99."""
    yield
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
