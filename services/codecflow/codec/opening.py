"""Opening a source with FFmpeg: the permitted protocols and certificates, limited to what the user meant.

A playlist or a container can name other files and hosts. What a source may open depends on its kind: a file only files in
its own folder, an address only the network. Formats that exist to open others (concat) and devices are excluded.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast, get_args

import av
import av.error
from av.container import InputContainer
from av.format import ContainerFormat, formats_available

from codecflow.errors import ConfigError

from . import http_answers, rtsp
from .addresses import Address, Kind
from .reader import SilentError
from .source_errors import source_error
from .tls import Trust, check_certificates
from .transmission import TCP_OPTIONS

RtspTransport = Literal["auto", "tcp", "udp"]

_PROTOCOLS: dict[Kind, str] = {
    "file": "file,crypto,data",
    "pipe": "crypto,data",
    "http": "http,https,httpproxy,tcp,tls,crypto,data",
    "rtsp": "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy",
    "rtmp": "rtmp,rtmps,rtmpt,rtmpts,rtmpe,rtmpte,ffrtmphttp,ffrtmpcrypt,http,https,httpproxy,tcp,tls",
    "network": "udp,rtp,tcp,tls,srt,mmsh,mmst,http,httpproxy",
}

_NO_SOURCES = ("concat", "image2", "jpeg_pipe", "lavfi", "sdp", "smoothstreaming")
"""Demuxers of lists and synthetic sources, and of image sequences by file name pattern. A JPEG stream is also format
mjpeg."""

_NO_FORMAT = (av.error.InvalidDataError, av.error.ArgumentError)
"""What FFmpeg raises for data of no format, or of one that is not on the list."""

_PLAIN = (av.error.OSError, av.error.ExternalError, av.error.UnknownError)
"""What it raises for everything that has no specific error."""

_CLEAR = (
    av.error.HTTPUnauthorizedError,
    av.error.HTTPForbiddenError,
    av.error.HTTPNotFoundError,
    av.error.HTTPServerError,
)
"""Answers of an HTTP server that FFmpeg reports clearly. A camera that is busy gets no further request."""

_UDP_PAUSES_S = (0.5, 1.0, 2.0)
"""Pauses before each UDP attempt after a camera refused TCP, except the last."""

_FEW_PICTURES = {"fpsprobesize": "0", "max_ts_probe": "1"}
"""FFmpeg otherwise reads some eight pictures to find the rate and the reordering before it returns: 40 s of a camera that
sends one picture in 5 s."""

_RECEIVE_BUFFER = 4 << 20
"""Socket buffer for UDP packets, in bytes: a keyframe of a 4K camera comes in one burst."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is opened.

    `timeout_s`: after how long without data a camera counts as silent. `track`: which video track, counted from 1; None: the
    first. `rtsp_transport`: how an RTSP camera sends; auto: TCP, then UDP if it refuses TCP or sends nothing. `tls_ca`: file
    of certificates, in PEM, that are trusted instead of the system's. `insecure`: cameras' certificates are not checked.
    `piped_live`: data from a pipe is a camera's, at its own pace. Raises ConfigError.
    """

    timeout_s: float = 10.0
    track: int | None = None
    rtsp_transport: RtspTransport = "auto"
    tls_ca: Path | None = None
    insecure: bool = False
    piped_live: bool = True

    def __post_init__(self) -> None:
        if self.rtsp_transport not in get_args(RtspTransport):
            raise ConfigError(
                f"--rtsp-transport {self.rtsp_transport!r}: use one of {', '.join(get_args(RtspTransport))}"
            )
        if self.track is not None and self.track < 1:
            raise ConfigError(f"--track {self.track}: tracks count from 1")
        if self.tls_ca is not None and self.insecure:
            raise ConfigError("--tls-ca with --insecure: give one of them; without a check no authority is needed")
        if self.tls_ca is not None:
            check_certificates(self.tls_ca)

    @property
    def tls(self) -> Trust:
        """The trusted certificates."""
        return Trust(self.tls_ca, self.insecure)


def open_container(
    address: Address, options: SourceOptions, notice: Callable[[str], None] = lambda line: None
) -> InputContainer:
    """Opens the container. Blocks.

    `notice` is called when an RTSP camera refuses TCP, or sends nothing that way, and UDP is used. Raises FFmpeg's or the
    system's own errors, SilentError after the time-out, and SourceError when the host's name, its certificate or a redirect
    was the reason.
    """
    try:
        return _by_transport(address, options, notice)
    except av.error.FFmpegError as error:
        # FFmpeg reports an unresolved host name and a failed handshake as plain input errors.
        if isinstance(error, _PLAIN) and address.host and not _resolves(address):
            raise source_error(address, "dns", opening=True, timeout_s=options.timeout_s) from None
        if isinstance(error, _PLAIN) and address.secure:
            trouble = options.tls.trouble(address.host, address.port, options.timeout_s)
            if trouble:
                raise source_error(address, "tls", opening=True, timeout_s=options.timeout_s, reason=trouble) from None
        unclear = address.kind == "http" and not isinstance(error, _CLEAR)
        if unclear and (refusal := http_answers.refusal(address, options.tls, options.timeout_s)):
            raise refusal from None
        raise


def open_jpegs(address: Address, options: SourceOptions) -> InputContainer:
    """An MJPEG stream whose pictures are found by their own markers, whatever is between them. Each is complete once the
    next one begins. Raises FFmpeg's errors and SilentError."""
    container = _open(address, options, "mjpeg", **_FEW_PICTURES, analyzeduration="100000")
    if container.streams.video[0].codec_context.width:
        return container
    container.close()
    raise av.error.InvalidDataError(errno.EINVAL, "no JPEG")


def _by_transport(address: Address, options: SourceOptions, notice: Callable[[str], None]) -> InputContainer:
    if address.kind != "rtsp":
        try:
            return _over_http(address, options) if address.kind == "http" else _open(address, options)
        except _NO_FORMAT:
            if not _sends_jpegs(address, options):
                raise
            return open_jpegs(address, options)
    if "@" in address.url:
        address = rtsp.without_redirection(address, options.tls, options.timeout_s)
    if options.rtsp_transport != "auto":
        return _open(address, options, rtsp_transport=options.rtsp_transport)
    refusal: av.error.FFmpegError | SilentError
    try:
        return _open(address, options, rtsp_transport="tcp")
    except av.error.FFmpegError as error:
        if not _refuses_tcp(error):
            raise
        refusal, does = error, "refuses RTSP over TCP"
    except SilentError as error:
        # A host that does not answer at all would not answer over UDP either.
        if not rtsp.answers(address, options.tls, options.timeout_s):
            raise
        refusal, does = error, "sends no video over TCP"
    try:
        container = _again_by_udp(address, options)
    except (av.error.FFmpegError, SilentError) as error:
        says_why = isinstance(refusal, av.error.FFmpegError) and refusal.errno == errno.EPROTONOSUPPORT
        raise (error if says_why else refusal) from None
    notice(f"source {address.shown}: the camera {does}; using UDP, which can lose packets")
    return container


def _over_http(address: Address, options: SourceOptions) -> InputContainer:
    """FFmpeg reads until the time-out if it finds no picture: it recognizes plain JPEG pictures only after a megabyte, and
    misses the end of multipart pictures without length if lines end with LF alone."""
    began = time.monotonic()
    try:
        container = _open(address, options)
    except SilentError:
        if not http_answers.may_send_jpegs(address, options.tls, options.timeout_s):
            raise
        return open_jpegs(address, options)
    if container.format.name in ("mjpeg", "mpjpeg") and time.monotonic() - began >= options.timeout_s:
        container.close()
        return open_jpegs(address, options)
    return container


def _sends_jpegs(address: Address, options: SourceOptions) -> bool:
    """Whether it is a series of JPEG pictures in a form that FFmpeg does not recognize: such as pictures that contain others
    (thumbnails), or multipart data with an odd beginning. A pipe cannot be opened twice."""
    if address.kind not in ("file", "http"):
        return False
    try:
        with open_jpegs(address, options) as container:
            packets = (packet for packet in container.demux(video=0) if packet.size)
            return sum(1 for _ in islice(packets, 2)) == 2
    except (av.error.FFmpegError, SilentError):
        return False


def _again_by_udp(address: Address, options: SourceOptions) -> InputContainer:
    """A second session. Servers that are still closing the first one answer 503."""
    for pause_s in _UDP_PAUSES_S:
        time.sleep(pause_s)
        try:
            return _open(address, options, rtsp_transport="udp")
        except av.error.HTTPServerError:
            continue
    return _open(address, options, rtsp_transport="udp")


def _refuses_tcp(error: av.error.FFmpegError) -> bool:
    """Whether a camera may accept UDP: it hung up, or answered 461 or a refusal unrelated to permissions or names."""
    return error.errno == errno.EPROTONOSUPPORT or isinstance(
        error,
        av.error.InvalidDataError
        | av.error.HTTPBadRequestError
        | av.error.HTTPOtherClientError
        | av.error.ConnectionResetError
        | av.error.EOFError,
    )


def _open(address: Address, options: SourceOptions, form: str | None = None, **more: str) -> InputContainer:
    settings = {"protocol_whitelist": _PROTOCOLS[address.kind], **more}
    if address.kind in ("rtsp", "network"):
        settings |= {"buffer_size": str(_RECEIVE_BUFFER)}
    if address.remote:
        settings |= _FEW_PICTURES
    if more.get("rtsp_transport") == "tcp":
        settings |= TCP_OPTIONS
    if address.scheme == "udp":
        settings |= {"overrun_nonfatal": "1"}
    settings |= options.tls.settings
    source: Any = address.url
    how: dict[str, Any] = {}
    if address.kind == "file":
        source = f"file:{address.url}"
        if _is_playlist(address.url):
            how["io_open"] = _in_folder_of(Path(address.url))
    elif address.kind == "pipe":
        # Unbuffered: available data is read immediately. Standard input is not closed, since it is not ours.
        own = address.url != "-"
        source = open(address.url if own else 0, "rb", buffering=0, closefd=own)  # noqa: SIM115

    def opened(formats: str) -> InputContainer:
        with_formats = settings | {"format_whitelist": formats}
        return _within(
            options.timeout_s,
            lambda: av.open(source, "r", form, options=with_formats, timeout=options.timeout_s, **how),
        )

    if not (address.kind == "http" and address.secure and not options.insecure):
        return opened(_formats())
    # FFmpeg checks the certificate of a playlist's host, but not those of the hosts named in it.
    try:
        return opened(_formats(without="hls"))
    except av.error.ArgumentError:  # a format that is not on the list
        how["io_open"] = options.tls.io_open(options.timeout_s)
        return opened(_formats())


def _within(timeout_s: float, opened: Callable[[], Any]) -> InputContainer:
    """The result of `opened`. Raises SilentError for any failure after the time-out: FFmpeg reports it in various ways, or
    not at all if a camera describes its tracks but sends no data for them."""
    began = time.monotonic()
    try:
        container = cast(InputContainer, opened())
    except av.error.FFmpegError:
        if time.monotonic() - began >= timeout_s:
            raise SilentError from None
        raise
    if (
        time.monotonic() - began >= timeout_s
        and container.format.name == "rtsp"
        and all(track.start_time is None for track in container.streams)
    ):
        container.close()
        raise SilentError
    return container


@cache
def _formats(without: str = "") -> str:
    """FFmpeg's demuxers of files and streams, for its option format_whitelist."""
    allowed = set()
    for name in formats_available:
        try:
            form = ContainerFormat(name, "r")
        except ValueError:
            continue
        if form.name not in (*_NO_SOURCES, without) and "device" not in form.long_name and not _is_device(name):
            allowed.add(name)
    return ",".join(sorted(allowed))


def _is_device(name: str) -> bool:
    return name in (
        "alsa",
        "fbdev",
        "kmsgrab",
        "x11grab",
        "xcbgrab",
        "video4linux2,v4l2",
        "oss",
        "pulse",
        "avfoundation",
    )


def _is_playlist(file: str) -> bool:
    with open(file, "rb") as opened:
        return opened.read(16).removeprefix(b"\xef\xbb\xbf").startswith(b"#EXTM3U")


def _in_folder_of(playlist: Path) -> Callable[..., Any]:
    """For FFmpeg's io_open: opens a playlist, and files named in it that are in the same folder."""
    folder = playlist.resolve().parent

    def io_open(url: str, flags: int, options: dict[str, str]) -> Any:
        named = Path(url.removeprefix("file:")).resolve()
        if not named.is_relative_to(folder):
            raise PermissionError(errno.EACCES, "outside the playlist's folder")
        return named.open("rb")

    return io_open


def _resolves(address: Address) -> bool:
    if os.environ.get("http_proxy") and address.kind == "http":
        return True  # the proxy resolves it
    try:
        socket.getaddrinfo(address.host, None)
    except (socket.gaierror, UnicodeError):
        return False
    return True
