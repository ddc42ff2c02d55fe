"""Decoding on an NVIDIA GPU's video decoder (NVDEC), through the FFmpeg in PyAV's wheels.

H.264, HEVC and VP9 define decoding exactly: NVDEC gives the software decoder's samples, bit for bit, and so the same masks;
`codecflow bench decode` compares the two on a machine with NVDEC. Codecs for which that does not hold (MJPEG) or that NVDEC
refuses (MPEG-4) stay on the CPU, as does any profile that it does not know: FFmpeg falls back automatically.

Frames stay in GPU memory until their samples are requested: only the few that are needed are copied.
"""

from __future__ import annotations

from functools import lru_cache

import av.error
from av.codec.hwaccel import HWAccel
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from codecflow.errors import ConfigError

CODECS = frozenset({"h264", "hevc", "vp9"})
"""Codecs for which NVDEC gives the software decoder's samples."""

_PLANAR = {"nv12": "yuv420p", "p010le": "yuv420p10le", "p016le": "yuv420p12le"}
"""NVDEC interleaves chroma; software decoders give the same samples in a planar format."""


def use_nvdec(where: str) -> bool:
    """Whether to decode with NVDEC. `where`: cpu, nvdec, or auto, which means NVDEC if this machine has one.

    Raises ConfigError on any other value, and when NVDEC is requested but unavailable.
    """
    if where not in ("auto", "cpu", "nvdec"):
        raise ConfigError(f"--decode {where!r}: use auto, cpu or nvdec")
    if where == "cpu":
        return False
    reason = _why_not()
    if reason is not None and where == "nvdec":
        raise ConfigError(f"--decode nvdec: {reason}; use --decode cpu, or auto")
    return reason is None


def device() -> HWAccel:
    """Opens a decoder on the GPU, or in software for a profile that NVDEC does not know."""
    return HWAccel("cuda", allow_software_fallback=True, is_hw_owned=True)


def on_cpu(frame: VideoFrame) -> VideoFrame:
    """The frame with its samples in host memory, in the format of a software decoder."""
    if frame.format.name != "cuda":
        return frame
    samples = frame.sw_format
    name = "nv12" if samples is None else samples.name
    return frame.reformat(format=_PLANAR.get(name, name))


@lru_cache(maxsize=1)
def _why_not() -> str | None:
    """Why this machine cannot decode with NVDEC; None if it can."""
    try:
        VideoCodecContext.create("h264", "r", hwaccel=HWAccel("cuda", allow_software_fallback=False, is_hw_owned=True))
    except (av.error.FFmpegError, NotImplementedError, RuntimeError, ValueError):
        return "this machine has no NVIDIA video decoder that FFmpeg can use"
    return None
