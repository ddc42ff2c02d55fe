"""A still scene made of a clip's first seconds, played forwards and backwards, with the noise of its camera."""

from __future__ import annotations

from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
from av.video.frame import VideoFrame

from codecflow.errors import ConfigError, SourceError
from codecflow.tools.bench.sampling import sampled_frames
from codecflow.tools.report.table import print_json

RATE = 10
KEYFRAME_S = 2


def run(clip: Path, out: Path, seconds: float, length: float) -> None:
    """Writes `length` seconds of H.264, 10 pictures/s, a keyframe every 2 s, of the first `seconds` of `clip`.

    Raises SourceError when the clip cannot be read, ConfigError when the file cannot be written.
    """
    forwards = [
        sampled.picture.frame.reformat(format="yuv420p") for sampled in sampled_frames(clip, Fraction(RATE), seconds)
    ]
    if len(forwards) < 2:
        raise SourceError(f"source {clip}: {len(forwards)} pictures in its first {seconds:g} s; give more seconds")
    try:
        _write(out, islice(cycle([*forwards, *forwards[-2:0:-1]]), round(length * RATE)))
    except (OSError, av.FFmpegError) as error:
        raise ConfigError(f"clip {out}: cannot be written ({error.strerror})") from None
    print_json({"clip": str(out), "pictures": round(length * RATE), "bytes": out.stat().st_size})


def _write(out: Path, frames: islice[VideoFrame]) -> None:
    with av.open(str(out), "w") as file:
        stream = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = file.add_stream("libx264", rate=RATE, options={"preset": "medium", "crf": "23"})
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                stream.codec_context.gop_size = KEYFRAME_S * RATE
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, RATE), 0
            file.mux(stream.encode(frame))
        if stream is not None:
            file.mux(stream.encode())
