"""Re-encoding at the sampling rate, for limited bandwidth and for comparison.

Follows the clip preparation of CodecFlow's paper (arXiv 2604.06036): H.264 Baseline without B-pictures. Motion vectors then
span sampled frames, and only sampled pictures are sent.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from codecflow.errors import ConfigError
from codecflow.messages import CodedPicture

from .pictures import DecodedPicture, PictureDecoder


@dataclass(frozen=True)
class Transcode:
    """`fps`: pictures per second that are kept; `gop`: pictures from one keyframe to the next; `crf`: x264's quality, 0 to
    51, lower is better and larger."""

    fps: Fraction
    gop: int = 16
    crf: int = 28

    @classmethod
    def parse(cls, text: str) -> Transcode:
        """From a text such as fps=2,gop=16,crf=28. Raises ConfigError."""
        values = dict(pair.partition("=")[::2] for pair in text.split(","))
        try:
            wanted = Transcode(
                Fraction(values.pop("fps")), int(values.pop("gop", cls.gop)), int(values.pop("crf", cls.crf))
            )
        except (KeyError, ValueError, ZeroDivisionError):
            raise ConfigError(f"--transcode {text!r}: use fps=N,gop=M, such as fps=2,gop=16") from None
        if values or not (0 < wanted.fps <= 120 and 1 <= wanted.gop <= 1000 and 0 <= wanted.crf <= 51):
            raise ConfigError(f"--transcode {text!r}: fps up to 120, gop 1 to 1000 and crf 0 to 51 are allowed")
        return wanted


class Transcoder:
    """Coded pictures in, fewer and re-encoded ones out: the first picture shown in each 1/fps seconds.

    Presentation times stay the source's. `lost`: pictures that could not be decoded, by reason.
    """

    def __init__(self, transcode: Transcode) -> None:
        self._transcode = transcode
        self._decoder = PictureDecoder()
        self._lost: Counter[str] = Counter()
        self._encoder: VideoCodecContext | None = None
        self._size = (0, 0)
        self._start_pts: int | None = None
        self._slot = -1
        self._seq = 0

    @property
    def lost(self) -> Counter[str]:
        self._lost.update(why for _, why in self._decoder.take_lost())
        return self._lost

    def push(self, picture: CodedPicture) -> list[CodedPicture]:
        """Re-encoded pictures that are ready, with consecutive `seq`."""
        return [coded for shown in self._decoder.push(picture) for coded in self._sample(shown)]

    def flush(self) -> list[CodedPicture]:
        """Re-encoded pictures still held back."""
        return [coded for shown in self._decoder.flush() for coded in self._sample(shown)]

    def _sample(self, decoded: DecodedPicture) -> list[CodedPicture]:
        picture = decoded.picture
        if not decoded.shown:
            return []
        if self._start_pts is None:
            self._start_pts = picture.pts
        slot = int((picture.pts - self._start_pts) * picture.time_base * self._transcode.fps // 1)
        if slot <= self._slot:
            return []
        self._slot = slot
        return self._encode(decoded.frame, picture)

    def _encode(self, frame: VideoFrame, picture: CodedPicture) -> list[CodedPicture]:
        # 4:2:0 does not allow odd sizes.
        size = (max(2, frame.width & ~1), max(2, frame.height & ~1))
        if self._encoder is None or size != self._size:
            self._encoder, self._size = self._open(size, picture.time_base), size
        image = frame.reformat(*size, format="yuv420p")
        image.pts, image.time_base, image.pict_type = picture.pts, picture.time_base, 0
        coded = []
        for packet in self._encoder.encode(image):  # zero latency: returns this picture
            coded.append(
                CodedPicture(
                    stream=picture.stream,
                    epoch=picture.epoch,
                    seq=self._seq,
                    data=bytes(packet),
                    codec="h264",
                    keyframe=packet.is_keyframe,
                    pts=picture.pts,
                    dts=picture.pts,
                    duration=int(1 / (self._transcode.fps * picture.time_base)),
                    time_base=picture.time_base,
                    captured_at_ms=picture.captured_at_ms,
                    width=size[0],
                    height=size[1],
                    orientation=picture.orientation,
                    live=picture.live,
                )
            )
            self._seq += 1
        return coded

    def _open(self, size: tuple[int, int], time_base: Fraction) -> VideoCodecContext:
        encoder = av.CodecContext.create("libx264", "w")
        assert isinstance(encoder, VideoCodecContext)
        encoder.width, encoder.height = size
        encoder.pix_fmt = "yuv420p"
        encoder.time_base, encoder.framerate = time_base, self._transcode.fps
        encoder.gop_size, encoder.max_b_frames, encoder.thread_count = self._transcode.gop, 0, 1
        encoder.profile = "Baseline"
        encoder.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "crf": str(self._transcode.crf),
            "sc_threshold": "0",
        }
        return encoder
