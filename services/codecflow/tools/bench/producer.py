"""Cost of the producer: pictures/s/core with the codec signal compared with plain decoding, bytes of metadata, and the time
to write and read the two records of a picture."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from codecflow.codec.pictures import PictureDecoder
from codecflow.codec.signal import SignalExtractor
from codecflow.codec.source import Source
from codecflow.errors import ConfigError, SourceError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import (
    CodedPicture,
    PictureMetadata,
    decode_metadata,
    decode_packet,
    encode_metadata,
    encode_packet,
)
from codecflow.producer.run import METADATA_LINGER_MS, METADATA_PROPERTIES
from codecflow.producer.summary import WireBytes
from codecflow.tools.report.table import print_json, print_table


def run(clip: Path, repeats: int = 5, seconds: float | None = None) -> None:
    """Measures `clip` (its first `seconds`): prints a table, then one JSON line.

    Rates are medians of `repeats` interleaved runs, by processor time of this process, software decoding in one thread.
    Raises ConfigError and SourceError.
    """
    if repeats < 1:
        raise ConfigError(f"--repeats {repeats}: must be at least 1")
    pictures, width, height = _pictures(clip, seconds)
    documents = _signal(pictures)
    if not documents:
        raise SourceError(f"source {clip}: no picture of it can be decoded; give an intact video file", "codec")
    runs: dict[str, Callable[[Sequence[CodedPicture]], object]] = {
        "bare decode": _bare_decode,
        "decode with vectors": _decode_with_vectors,
        "decode and signal": _signal,
    }
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, work in runs.items():
            began = time.process_time()
            work(pictures)
            spent[name].append(time.process_time() - began)
    rates = {name: len(pictures) / median(times) for name, times in spent.items()}
    coded = sum(len(picture.data) for picture in pictures)
    shares = {pace: metadata_bytes(documents, pace == "in real time") / coded for pace in ("--fast", "in real time")}
    wire = _wire_us(pictures, documents)
    bare = rates["bare decode"]
    print_table(
        f"{clip.name}: {len(pictures)} pictures of {width}x{height}, {pictures[0].codec}",
        ["", "pictures/s/core", "of bare decode"],
        [(name, f"{rate:.0f}", f"{rate / bare:.2f}") for name, rate in rates.items()],
        note="Metadata, batched and compressed as it is published, of the pictures' bytes: "
        + ", ".join(f"{100 * share:.2f} % {pace}" for pace, share in shares.items())
        + ". On the wire, per picture with its metadata, median: "
        + ", ".join(f"{us:.1f} us to {step}" for step, us in wire.items()),
    )
    print_json(
        {
            "decode_per_s": round(bare, 1),
            "signal_per_s": round(rates["decode and signal"], 1),
            "ratio": round(rates["decode and signal"] / bare, 3),
            "metadata_share": round(shares["--fast"], 4),
            "metadata_share_real_time": round(shares["in real time"], 4),
            "wire_encode_us": round(wire["encode"], 1),
            "wire_decode_us": round(wire["decode"], 1),
        }
    )


def _pictures(clip: Path, seconds: float | None) -> tuple[list[CodedPicture], int, int]:
    with Source(str(clip)) as source:
        pictures: list[CodedPicture] = []
        for picture in source.pictures("bench", int(time.time() * 1000)):
            if pictures and seconds and (picture.pts - pictures[0].pts) * picture.time_base > seconds:
                break
            pictures.append(picture)
        return pictures, source.width, source.height


def _bare_decode(pictures: Sequence[CodedPicture]) -> None:
    """FFmpeg's decoder alone."""
    first = pictures[0]
    decoder = VideoCodecContext.create("libdav1d" if first.codec == "av1" else first.codec, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata, decoder.width, decoder.height = first.extradata, first.width, first.height
    decoder.thread_count = 1
    for picture in pictures:
        packet: Packet[Any] = Packet(len(picture.data))
        packet.update(picture.data)
        decoder.decode(packet)
    decoder.decode(None)


def _decode_with_vectors(pictures: Sequence[CodedPicture]) -> None:
    decoder = PictureDecoder(vectors=True)
    for picture in pictures:
        decoder.push(picture)
    decoder.flush()


def _signal(pictures: Sequence[CodedPicture]) -> list[PictureMetadata]:
    extractor = SignalExtractor()
    documents = [document for picture in pictures for document in extractor.push(picture)]
    return documents + extractor.flush()


def _wire_us(pictures: Sequence[CodedPicture], documents: Sequence[PictureMetadata]) -> dict[str, float]:
    """Microseconds to encode and to decode the two records of a picture: the median over the pictures, each the best of
    five, to exclude other programs on this machine."""
    by_seq = {document.seq: document for document in documents}
    pairs = [(picture, by_seq[picture.seq]) for picture in pictures if picture.seq in by_seq]
    records = [(encode_packet(picture), encode_metadata(document)) for picture, document in pairs]
    encode = [
        _best_us(lambda picture, document: (encode_packet(picture), encode_metadata(document)), pair) for pair in pairs
    ]
    decode = [
        _best_us(lambda packet, document: (decode_packet(*packet), decode_metadata(*document)), pair)
        for pair in records
    ]
    return {"encode": median(encode), "decode": median(decode)}


def _best_us(work: Callable[[Any, Any], object], pair: tuple[Any, Any], times: int = 5) -> float:
    best = math.inf
    for _ in range(times):
        began = time.perf_counter()
        work(*pair)
        best = min(best, time.perf_counter() - began)
    return best * 1e6


def metadata_bytes(documents: Sequence[PictureMetadata], real_time: bool) -> int:
    """Bytes that the producer's own client sends for these documents.

    The brokers are librdkafka's mock brokers in this process: they store nothing, but receive what real ones would. In real
    time a batch is what was published within the linger time.
    """
    sent = WireBytes()
    properties = {**METADATA_PROPERTIES, **sent.properties(), "test.mock.num.brokers": 1}
    settings = KafkaSettings("bench:9092")
    with RecordSender(settings, **properties) as sender:
        began_s = documents[0].time_s
        for document in documents:
            if real_time and document.time_s - began_s >= METADATA_LINGER_MS / 1000:
                sender.flush()
                began_s = document.time_s
            key, value = encode_metadata(document)
            sender.send(Record(settings.topics.metadata, key, value, f"picture {document.seq}"))
        sender.flush()
        sent.settle(sender)
    return sent.total
