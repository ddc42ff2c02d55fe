"""What a producer publishes of coded pictures, and what a decoder shows of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.pictures import luma_checksum
from codecflow.codec.signal import SignalExtractor
from codecflow.codec.source import Source
from codecflow.messages import CodedPicture, PictureMetadata

from .clips import scene


def pictures_of(path: Path) -> list[CodedPicture]:
    with Source(str(path)) as source:
        return list(source.pictures("gate", 7))


def decoded(pictures: Iterable[CodedPicture], decoder: Decoder | None = None) -> list[ShownPicture]:
    decoder = decoder or Decoder()
    return [shown for picture in pictures for shown in decoder.push(picture)] + decoder.flush()


def checksums(pictures: Iterable[CodedPicture]) -> dict[int, int]:
    """Checksums of the luma of every picture shown, by seq."""
    return {one.seq: luma_checksum(one.luma()) for one in decoded(pictures)}


def published(pictures: Iterable[CodedPicture]) -> tuple[list[CodedPicture], list[PictureMetadata], dict[str, int]]:
    """A producer's output for the pictures: those published, their metadata, and how many it lost, by reason."""
    pictures = list(pictures)
    extractor = SignalExtractor(Fraction(1, 5))
    documents = [document for picture in pictures for document in extractor.push(picture)] + extractor.flush()
    lost = extractor.take_lost()
    gone = {seq for seq, _ in lost}
    reasons = [why for _, why in lost]
    return [p for p in pictures if p.seq not in gone], documents, {why: reasons.count(why) for why in reasons}


def renumbered(pictures: Iterable[CodedPicture]) -> list[CodedPicture]:
    """Numbered as by a source that does not know what it has missed."""
    return [replace(picture, seq=seq) for seq, picture in enumerate(pictures)]


def x264(path: Path, parameters: str, size: tuple[int, int] = (320, 240)) -> Path:
    """60 pictures with x264's `parameters`."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=10, options={"x264-params": f"scenecut=0:keyint=10:{parameters}"})
        track.width, track.height, track.pix_fmt = *size, "yuv420p"
        track.codec_context.gop_size, track.codec_context.thread_count = 10, 1
        for index in range(60):
            frame = av.VideoFrame.from_ndarray(scene(index, *size), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path
