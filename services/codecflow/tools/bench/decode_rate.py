"""`codecflow bench decode`: decoding rate of a worker's decoders, and whether NVDEC output matches the CPU's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.nvdec import use_nvdec
from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.messages import CodedPicture
from codecflow.tools.report.table import display_names, print_json, print_table

RGB_EVERY = 10
"""One in this many compared pictures is compared in RGB, too."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Pictures per second of `streams` decoders in total, one thread each. `where`: cpu or nvdec."""

    where: str
    streams: int
    per_s: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of `pictures` that both decoders show, the number with different luma samples, and the largest difference in RGB."""

    pictures: int
    luma_differs: int
    rgb_largest: int


def run(clips: Sequence[Path], *, streams: Sequence[int], pictures: int, seconds: float, every: int) -> None:
    """Prints a table per clip, then one JSON line. At most `pictures` of each clip; `seconds` per measurement; the luma of
    one picture in `every` is read, as a worker does for sampled pictures. Raises SourceError."""
    with_nvdec = use_nvdec("auto")
    figures: dict[str, object] = {}
    for name, clip in zip(display_names(clips), clips, strict=True):
        coded = _coded(clip, pictures)
        rates = [
            _rate(coded, where, count, seconds, every)
            for where in (["cpu", "nvdec"] if with_nvdec else ["cpu"])
            for count in streams
        ]
        agreement = _compare(coded) if with_nvdec else None
        note = "No NVIDIA video decoder on this machine: CPU only."
        if agreement is not None:
            note = (
                f"NVDEC against CPU: {agreement.pictures} pictures, {agreement.luma_differs} with other luma samples, "
                f"RGB differs by {agreement.rgb_largest} at most."
            )
        print_table(
            f"{name}: {coded[0].codec}, {coded[0].width}x{coded[0].height}, {len(coded)} pictures",
            ["decoder", "streams", "pictures/s"],
            [[rate.where, str(rate.streams), f"{rate.per_s:.0f}"] for rate in rates],
            note=note,
        )
        figures[name] = {
            "codec": coded[0].codec,
            "width": coded[0].width,
            "height": coded[0].height,
            "pictures_per_s": {f"{rate.where}/{rate.streams}": round(rate.per_s, 1) for rate in rates},
            "nvdec_luma_differs": None if agreement is None else agreement.luma_differs,
            "nvdec_rgb_largest": None if agreement is None else agreement.rgb_largest,
        }
    print_json(figures)


def _coded(clip: Path, max_pictures: int) -> list[CodedPicture]:
    with Source(str(clip)) as source:
        coded = list(islice(source.pictures("bench", 0), max_pictures))
    if not coded:
        raise SourceError(f"source {clip}: no picture could be read; give a video file", "codec")
    return coded


def _rate(coded: Sequence[CodedPicture], where: str, streams: int, seconds: float, every: int) -> Rate:
    deadline = time.perf_counter() + seconds

    def decode(_: int) -> int:
        count = 0
        while time.perf_counter() < deadline:
            decoder = Decoder(nvdec=where == "nvdec")
            for picture in coded:
                for shown in decoder.push(picture):
                    count += 1
                    if count % every == 0:
                        shown.luma()
                if time.perf_counter() >= deadline:
                    break
        return count

    begun = time.perf_counter()
    with ThreadPoolExecutor(streams) as threads:
        total = sum(threads.map(decode, range(streams)))
    return Rate(where, streams, total / (time.perf_counter() - begun))


def _compare(coded: Sequence[CodedPicture]) -> Agreement:
    on_cpu, on_gpu = Decoder(), Decoder(nvdec=True)
    waiting: dict[int, ShownPicture] = {}
    pictures = differs = largest = 0
    for picture in [*coded, None]:
        expected = on_cpu.flush() if picture is None else on_cpu.push(picture)
        found = on_gpu.flush() if picture is None else on_gpu.push(picture)
        waiting.update({shown.seq: shown for shown in expected})
        for shown in found:
            reference = waiting.pop(shown.seq, None)
            if reference is None:
                differs += 1
                continue
            pictures += 1
            differs += not np.array_equal(reference.luma(), shown.luma())
            if pictures % RGB_EVERY == 1:
                largest = max(largest, int(np.abs(reference.rgb().astype(np.int16) - shown.rgb()).max()))
    return Agreement(pictures, differs + len(waiting), largest)
