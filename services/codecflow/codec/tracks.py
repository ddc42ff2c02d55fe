"""Which of a container's tracks is the video: not its cover, its thumbnails or an enhancement layer of another track."""

from __future__ import annotations

from dataclasses import dataclass

from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from codecflow.errors import SourceError
from codecflow.messages.limits import VIDEO_CODECS

_NO_VIDEO = (
    Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
)  # fmt: skip

_ENHANCEMENTS = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
"""Tags of Dolby Vision tracks. Next to a track with another tag they hold its enhancement layer."""

_STILLS = ("avif", "heic", "heix", "mif1")
"""Brands of MP4 files that hold a still picture (HEIF)."""

UNPUBLISHED = frozenset({"utvideo", "qtrle"})
"""Codecs whose packets alone cannot be decoded: pixel format and depth are the container's."""

_CONVERT = "convert it: ffmpeg -i IN -c:v libx264 OUT.mp4"


@dataclass(frozen=True, slots=True)
class Tracks:
    """The video tracks of a container, numbered from 1, without covers and the like. `chosen`: index."""

    videos: list[VideoStream]
    chosen: int

    @property
    def track(self) -> VideoStream:
        return self.videos[self.chosen]

    def listing(self) -> str:
        """The tracks, such as `1 h264 160x90, 2 h264 768x432`."""
        return ", ".join(f"{number} {_track(video)}" for number, video in enumerate(self.videos, 1))


def choose_track(container: InputContainer, name: str, wanted: int | None) -> Tracks:
    """The video track to publish: number `wanted`, or the first. `name`: of the source, in displayable form.

    Raises SourceError, codec, when there is no such track, or its codec cannot be published.
    """
    streams = list(container.streams.video)
    videos = _real(streams)
    if not videos:
        if streams:
            raise SourceError(f"source {name}: it has a cover or still pictures, but no video; give a video", "codec")
        only = "sound only" if container.streams.audio else "no video track"
        raise SourceError(f"source {name}: it has {only}: no video track; give a file or camera that has one", "codec")
    tracks = Tracks(videos, (wanted or 1) - 1)
    if not 0 <= tracks.chosen < len(videos):
        count = "1 video track" if len(videos) == 1 else f"{len(videos)} video tracks"
        raise SourceError(f"source {name}: no track {wanted}: it has {count}: {tracks.listing()}", "codec")
    if wanted is None:
        # Skip tracks that cannot be published, to reach one that can.
        usable = [index for index, video in enumerate(videos) if published(video)]
        tracks = Tracks(videos, usable[0] if usable else 0)
    if container.format.name.endswith("_pipe") or container.metadata.get("major_brand") in _STILLS:
        raise SourceError(f"source {name}: a still picture, not a video; give a video file", "codec")
    if tracks.track.codec_context is None:
        raise SourceError(f"source {name}: no decoder for its video track ({_tag(tracks.track)}); {_CONVERT}", "codec")
    if not published(tracks.track):
        codec = codec_name(tracks.track)
        raise SourceError(f"source {name}: its video is {codec}, a codec that is not supported; {_CONVERT}", "codec")
    return tracks


def published(track: VideoStream) -> bool:
    """Whether pictures of the track can be decoded without any other data."""
    return codec_name(track) in VIDEO_CODECS - UNPUBLISHED


def codec_name(track: VideoStream) -> str:
    """FFmpeg's name of its codec; empty if FFmpeg has no decoder for it."""
    return "" if track.codec_context is None else track.codec_context.codec.canonical_name


def _real(streams: list[VideoStream]) -> list[VideoStream]:
    moving = [stream for stream in streams if not stream.disposition & _NO_VIDEO]
    # A single picture next to a film is its poster, whatever the container calls it.
    films = [stream for stream in moving if stream.frames != 1]
    moving = films or moving
    base = [stream for stream in moving if _tag(stream) not in _ENHANCEMENTS]
    return base or moving


def _tag(track: VideoStream) -> str:
    tag = track.codec_context.codec_tag if track.codec_context is not None else ""
    return tag or "an unknown codec"


def _track(track: VideoStream) -> str:
    context = track.codec_context
    if context is None:
        return "of an unknown codec"
    size = f" {context.width}x{context.height}" if context.width and context.height else ""
    title = track.metadata.get("title") or track.metadata.get("language") or ""
    return f"{codec_name(track)}{size}" + (f" ({title})" if title not in ("", "und") else "")
