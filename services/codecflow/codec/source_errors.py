"""Why a source cannot be opened or read any further, as one clear line and a code for counting."""

from __future__ import annotations

import errno

import av.error

from codecflow.errors import SourceError

from .addresses import Address, Kind

_ADVICE = {
    "auth": "the user name or password was refused; check them, and write special characters in them as %XX",
    "tls": "the secure connection failed: {reason}; give the camera's certificate or its authority's with --tls-ca FILE, "
    "or turn the check off with --insecure",
    "timeout": "no video came within {timeout_s:g} s; check that the camera is on and sends, or raise --timeout",
    "dns": "the host name cannot be resolved; check the address and the name server",
    "refused": "the connection was refused: nothing listens on this port; check the port and that the camera is on",
    "unreachable": "no route to this host; check the address and the network",
    "transport": "the camera refuses this RTSP transport; use --rtsp-transport auto, udp or tcp",
    "codec": "not a video that can be read{what}",
    "protocol": "this build of FFmpeg does not support protocol {scheme}; give the camera's rtsp:// address, or let a "
    "gateway such as mediamtx offer it as RTSP",
    "aborted": "an assertion in FFmpeg failed, which damaged data can cause; {what}",
    "gone": "the connection broke off or was ended by the other side{what}",
    "missing": "nothing found at this address; check its path",
    "read": "it cannot be read ({reason}); check the disk and the permissions",
}

_KINDS: dict[type[Exception], str] = {
    av.error.HTTPUnauthorizedError: "auth",
    av.error.HTTPForbiddenError: "auth",
    av.error.HTTPNotFoundError: "missing",
    av.error.ExitError: "timeout",
    av.error.ProtocolNotFoundError: "protocol",
    av.error.ArgumentError: "codec",  # a format that is not opened, such as a list of files
}

_ERRNO = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
    errno.ETIMEDOUT: "timeout",
    errno.EPROTONOSUPPORT: "transport",
}


def source_error(
    address: Address, error: Exception | str, *, opening: bool, timeout_s: float, reason: str = ""
) -> SourceError:
    """The SourceError for an error of FFmpeg or the operating system, or for a code and a reason.

    Only the kind of the error is used: FFmpeg's texts contain the address with its password.
    """
    code = error if isinstance(error, str) else _code(address, error, opening)
    doing = "cannot be opened" if opening else "failed"
    reason = reason or getattr(error, "strerror", None) or "an error of the system"
    what = _what_it_is(address) if code == "codec" else ""
    if code == "aborted":
        what = "start this command again" if address.remote else "repair or convert it with another program"
    if isinstance(error, av.error.HTTPError):
        what = f" ({reason})"
    advice = _ADVICE[code].format(timeout_s=timeout_s, scheme=address.scheme, reason=reason, what=what)
    return SourceError(f"source {address.shown}: {doing}: {code}: {advice}", code)


def _code(address: Address, error: Exception, opening: bool) -> str:
    for kind, code in _KINDS.items():
        if isinstance(error, kind):
            return code
    if isinstance(error, av.error.InvalidDataError | av.error.DecoderNotFoundError):
        return "codec" if opening else "gone"
    number = getattr(error, "errno", None)
    if address.kind == "file" and _what_file(address.url) == _PLAYLIST:
        return "codec"  # one of its parts has failed
    if not address.remote:
        return "missing" if number == errno.ENOENT else "read"
    return _ERRNO.get(number or 0, "gone")


_DASH = ": DASH is not supported; give an HLS address (.m3u8) or the camera's rtsp:// address"
_SDP = ": an SDP description is not supported; give the camera's rtsp:// address"
_PLAYLIST = ": a playlist whose parts are not videos in its own folder; give one of them, or its http:// address"
_PAGE = ": a web page or XML; download the video itself"

_QUESTIONS: dict[Kind, str] = {
    "http": "; is it the stream's own address, not that of the camera's page?",
    "pipe": ", or it ended before there was one; does the program that writes it run, and write video (such as MPEG-TS)?",
    "rtsp": "; the host does not answer as an RTSP camera does: check port and path",
}

_SAMPLES = (
    ": raw samples that do not say their size and format; convert it: "
    "ffmpeg -f rawvideo -pixel_format yuv420p -video_size WxH -framerate N -i IN -c:v libx264 OUT.mp4"
)

_ENDINGS = {
    **dict.fromkeys((".yuv", ".raw", ".rgb", ".bgr", ".nv12", ".i420"), _SAMPLES),
    ".mpd": _DASH,
    ".sdp": _SDP,
    ".m3u8": ": a playlist that cannot be read, or whose parts cannot",
}

_BEGINNINGS = {
    "#extm3u": _PLAYLIST,
    "ffconcat": ": a list of files for FFmpeg; give the files themselves",
    "v=0\r\n": _SDP,
    "v=0\n": _SDP,
    "<!doctype": _PAGE,
    "<html": _PAGE,
    "<?xml": _PAGE,
}


def _what_it_is(address: Address) -> str:
    """What a source that is not a video seems to be, and what to do: the end of the error's line."""
    if address.scheme == "rtp":
        return ": rtp:// needs a description of the stream (SDP), which is not supported; give the rtsp:// address"
    path = address.url.partition("?")[0].lower()
    hint = next((hint for ending, hint in _ENDINGS.items() if path.endswith(ending)), "")
    if address.kind == "file":
        return _what_file(address.url) or hint or "; give a video file"
    if address.kind == "http" and path.endswith((".jpg", ".jpeg", ".png")):
        return ": a still picture; give the camera's stream (RTSP or MJPEG), not its snapshot"
    return hint or _QUESTIONS.get(address.kind, "")


def _what_file(name: str) -> str:
    try:
        with open(name, "rb") as file:
            head = file.read(4096)
    except OSError:
        return ""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return ": an MP4 file that is cut off before its index; record or copy it again"
    if head.startswith(b"\xff\xd8\xff"):
        return ": a still picture, not a video; give a video file"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().decode("latin-1").lower()
    if "<mpd" in text:
        return _DASH
    return next((hint for beginning, hint in _BEGINNINGS.items() if text.startswith(beginning)), "")
