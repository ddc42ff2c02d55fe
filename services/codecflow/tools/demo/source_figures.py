"""Properties of the demo's clip: its length, and the size of its sampled frames as JPEG."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from codecflow.codec.decode import Decoder
from codecflow.codec.source import Source
from codecflow.errors import ConfigError

JPEG_QUANTISER = 3
"""FFmpeg's quality of the JPEG comparison, 2 (best) to 31: about as large as libjpeg's quality 80."""


def fitting_stride(seconds: float, wanted: int) -> int:
    """The longest stride of whole seconds, at most `wanted`, that the clip fills. Raises ConfigError if there is none."""
    if not seconds:
        return wanted
    if seconds < 1:
        raise ConfigError(f"the clip lasts {seconds:.1f} s; a window needs 1 s or more, so there is nothing to answer")
    return min(wanted, int(seconds))


def jpeg_bytes(path: Path, fps: Fraction) -> tuple[int, int]:
    """(frames, bytes): the clip's pictures at `fps`, each as a separate JPEG, as sent by systems without a video codec.

    Raises SourceError when the clip cannot be read.
    """
    frames = total = 0
    encoder: VideoCodecContext | None = None
    due: Fraction | None = None
    with Source(str(path)) as source:
        decoder = Decoder()
        for coded in source.pictures(path.name, 0):
            for picture in decoder.push(coded):
                time = picture.pts * coded.time_base
                due = time if due is None else due
                if time < due:
                    continue
                due += 1 / fps
                encoder = encoder or _encoder(picture.frame, fps)
                flat = picture.frame.reformat(width=encoder.width, height=encoder.height, format="yuvj420p")
                flat.pts, flat.time_base = frames, 1 / fps
                total += sum(packet.size for packet in encoder.encode(flat))
                frames += 1
    return frames, total + (sum(packet.size for packet in encoder.encode(None)) if encoder else 0)


def _encoder(picture: VideoFrame, fps: Fraction) -> VideoCodecContext:
    encoder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = picture.width, picture.height, "yuvj420p"
    encoder.time_base = 1 / fps
    encoder.qmin = encoder.qmax = JPEG_QUANTISER
    return encoder
