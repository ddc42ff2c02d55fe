"""Interprets SOURCE: a file, standard input or a camera's address, and how it may be displayed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from codecflow.errors import SourceError
from codecflow.text import visible

Kind = Literal["file", "pipe", "http", "rtsp", "rtmp", "network"]

_KINDS: dict[str, Kind] = {
    "http": "http",
    "https": "http",
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    **dict.fromkeys(("rtmp", "rtmps", "rtmpt", "rtmpts", "rtmpe", "rtmpte"), "rtmp"),
    **dict.fromkeys(("udp", "rtp", "tcp", "tls", "srt", "mmsh", "mmst"), "network"),
}
_SECURE = ("https", "rtsps", "rtmps", "rtmpts", "tls")
_PORTS = {"https": 443, "rtsps": 322, "rtmps": 443, "rtmpts": 443}

_HINTS = {
    "rtspt": "give the rtsp:// address with --rtsp-transport tcp",
    "rtspu": "give the rtsp:// address with --rtsp-transport udp",
    "onvif": "give the stream's own rtsp:// address, which the camera's ONVIF page lists",
    "dash": "give an HLS address (.m3u8) or the camera's rtsp:// address",
    "v4l2": "pipe the device in: ffmpeg -f v4l2 -i /dev/video0 -c:v libx264 -f mpegts - | codecflow produce -",
}
_GATEWAY = "give the camera's rtsp:// address, or let a gateway such as mediamtx offer it as RTSP"

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
# Likely meant as an address: one slash after a scheme, or user:password@host without a scheme or its colon.
_MEANT = re.compile(r"\s*[a-zA-Z][a-zA-Z0-9+.-]*:/|(?![./]).*:.*@|//[^/].*:.*@", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """A source. `url`: for FFmpeg; the path of a file. `shown`: for people, without secrets. `scheme`: in lower case, empty
    if there is none. `host`, `port`: of a network address, else empty and 0."""

    kind: Kind
    url: str
    shown: str
    scheme: str = ""
    host: str = ""
    port: int = 0

    @property
    def secure(self) -> bool:
        """Whether it is reached through TLS."""
        return self.scheme in _SECURE

    @property
    def remote(self) -> bool:
        """Whether it is on the network, so that reconnecting makes sense."""
        return self.kind not in ("file", "pipe")

    @classmethod
    def parse(cls, source: str) -> Address:
        """Interprets `source`: a file if there is one of that name, `-` or a pipe, else an address.

        Raises SourceError: missing, protocol.
        """
        if source == "-":
            if os.isatty(0):
                raise SourceError(
                    "source -: nothing is piped in; such as: ffmpeg ... -f mpegts - | codecflow produce -", "missing"
                )
            return cls("pipe", "-", "standard input")
        for name in _file_names(source):
            if os.path.lexists(name):
                return cls._of_path(name)
        match = _SCHEME.match(source)
        if match is None or match[1].lower() == "file":
            raise _missing(source)
        scheme = match[1].lower()
        if scheme not in _KINDS:
            hint = _HINTS.get(scheme, _GATEWAY)
            raise SourceError(
                f"source {shown(source)}: protocol {scheme}:// is not supported; {hint}",
                "protocol",
            )
        rest = _with_quoted_user(source[match.end() :])
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
        host = authority[1:].partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]
        port = authority.removeprefix(f"[{host}]").removeprefix(host)
        if not re.fullmatch(r"(:\d{0,5})?", port) or int(port[1:] or 0) > 65535:
            raise SourceError(
                f"source {shown(source)}: the port of an address must be a number up to 65535; write special characters of "
                "the user name and password as %XX",
                "missing",
            )
        if not host and _KINDS[scheme] != "network":  # udp://:1234 listens on all addresses of this machine
            raise SourceError(
                f"source {shown(source)}: an address without a host; such as {scheme}://HOST/PATH", "missing"
            )
        number = int(port[1:] or _PORTS.get(scheme, 0))
        return cls(_KINDS[scheme], f"{scheme}://{rest}", shown(source), scheme, host, number)

    @classmethod
    def _of_path(cls, name: str) -> Address:
        path, name_shown = Path(name), visible(name)
        if path.is_dir():
            raise SourceError(f"source {name_shown}: is not a file but a folder; give a video file in it", "missing")
        if path.is_fifo():
            return cls("pipe", name, name_shown)
        if not path.exists():
            raise SourceError(f"source {name_shown}: a link to a file that is not there; give a video file", "missing")
        if not path.is_file():
            hint = f"; {_HINTS['v4l2']}" if name.startswith("/dev/video") else "; give a video file"
            raise SourceError(f"source {name_shown}: is not a file but a device{hint}", "protocol")
        if not os.access(path, os.R_OK):
            raise SourceError(
                f"source {name_shown}: no permission to read it; change its permissions or give another file", "missing"
            )
        if path.stat().st_size == 0:
            raise SourceError(f"source {name_shown}: not a video: the file is empty; give a video file", "codec")
        return cls("file", name, name_shown)


def is_address(source: str) -> bool:
    """Whether `source` is, or was meant as, a camera's address rather than a file name. No file of that name exists."""
    if any(os.path.lexists(name) for name in _file_names(source)):
        return False
    match = _SCHEME.match(source)
    return match[1].lower() != "file" if match else bool(_MEANT.match(source))


def shown(source: str) -> str:
    """A source in displayable form, on one line: without user, password, and everything after the path.

    Cameras also take secrets as parameters (`?token=...`, `/user=admin&password=...`), so nothing after the path's first
    `?`, `#`, `=`, `;` or `&` is shown. A password may contain any character: everything up to the last `@` is removed.
    """
    if any(os.path.lexists(name) for name in _file_names(source)):
        return visible(source)
    match = _SCHEME.match(source) or _MEANT.match(source)
    if match is None:
        return visible(source)
    begin = _begin(source)
    rest = source[len(begin) :]
    if "@" in rest:
        if _HOST.match(rest):
            return visible(f"{begin}***")  # the "@" is in a parameter, or the password has a "/"
        begin, rest = begin + "***@", rest.rpartition("@")[2]
    elif re.match(r"[^/?#:\[]*:(?!\d*(?:[/?#.,:;]|$))", rest):
        return visible(f"{begin}***")  # user:password, the host is missing
    plain = re.split(r"[?#=;&]", rest, maxsplit=1)[0]
    secret = rest[len(plain) :]
    if secret[1:].rstrip(".,:;") == "***":  # text that was already redacted
        return visible(begin + rest)
    return visible(begin + plain + (f"{secret[0]}***" if secret else ""))


_HOST = re.compile(r"(?:[\w-]+(?:\.[\w-]+)+(?::\d*)?|[\w.-]+:\d+|\[[^\]@]*\](?::\d*)?)[/?#]", re.DOTALL)
"""What a host, as opposed to a user name, looks like at the beginning of an address."""

_ADDRESS_IN_TEXT = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:/{1,2}(?:.*@)?[^\s'\"]*", re.DOTALL)
_USER_IN_TEXT = re.compile(r"[^\s/:@'\"]+:[^\s]*@")


def redact(text: str, sources: Iterable[str] = ()) -> str:
    """`text` without the secrets of the addresses in it.

    `sources`: addresses that may occur in it, such as a command's arguments; those are found whatever characters they
    contain. For others, everything from `scheme://` to the text's last `@` is removed.
    """
    for source in sorted((one for one in sources if is_address(one)), key=len, reverse=True):
        text = _without(text, (source, str(Path(source))), len(_begin(source)), shown(source))
    text = _ADDRESS_IN_TEXT.sub(lambda match: shown(match.group()), text)
    return _USER_IN_TEXT.sub(lambda match: match.group() if "***@" in match.group() else "***@", text)


def _begin(source: str) -> str:
    """The scheme of an address, with its slashes."""
    scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:/{1,2}|//", source)
    return scheme[0] if scheme else ""


def _without(text: str, forms: Iterable[str], begin: int, replacement: str) -> str:
    """`text` with each of the `forms` that one address takes in it replaced by `replacement`, even if only the beginning is
    there: messages truncate long words. `begin`: characters of it that are not secret."""
    forms = [form for form in forms if form.strip()]  # an empty one would match everywhere
    at = 0
    while True:
        found = [(place, form) for form in forms if (place := text.find(form.lstrip()[: begin + 3], at)) >= 0]
        if not found:
            return text
        place = min(found)[0]
        length = max(
            _agree(text, place, form.lstrip(), backslash)
            for where, form in found
            if where == place
            for backslash in ("\\", "\\\\")
        )
        text = text[:place] + replacement + text[place + length :]
        at = place + len(replacement)


_ESCAPED = r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}"
_BLANK = re.compile(rf"(?:\s|{_ESCAPED}|\\[tnrfv0ab]|\ufffd)")
_REPLACED = "[?\ufffd]"
"""Replaces a character that an encoding does not have."""


def _agree(text: str, place: int, form: str, backslash: str) -> int:
    """How many characters of the text from this position on match `form` or a prefix of it: verbatim, or with runs of blanks
    collapsed, and quotes and control characters escaped. `backslash`: how one is written."""
    at = place
    for character in form:
        if character.isspace() or not character.isprintable():
            at = _behind_blanks(text, at)
            continue
        if character == "\\":
            pattern = re.compile(re.escape(backslash))
        else:
            replaced = "" if character.isascii() else f"|{_REPLACED}"
            pattern = re.compile(rf"\\*{re.escape(character)}|{_ESCAPED}{replaced}")
        found = pattern.match(text, at)
        if found is None:
            break
        at = found.end()
    return at - place


def _behind_blanks(text: str, at: int) -> int:
    """The first position from `at` on that is not a blank or control character, whether raw, escaped or replaced."""
    if text[at : at + 1] == "?":
        return at + 1
    while at < len(text):
        if found := _BLANK.match(text, at):
            at = found.end()
        elif text[at].isprintable():
            break
        else:
            at += 1
    return at


def _file_names(source: str) -> list[str]:
    """The file names that `source` may stand for: verbatim, and without file: (with %20 and the like decoded, if it is a
    URL)."""
    names = [] if "\0" in source else [source]
    if source[:5].lower() == "file:":
        rest = source[5:]
        if rest.startswith("//"):
            host, _, path = rest[2:].partition("/")
            if host in ("", "localhost"):
                names += [f"/{path}", unquote(f"/{path}")]
        else:
            names += [rest, unquote(rest)]
    return [name for name in names if name and "\0" not in name]


def _with_quoted_user(rest: str) -> str:
    """The part after `scheme://`, with user and password escaped for FFmpeg where they contain special characters."""
    if "@" not in rest:
        return rest
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:  # per the standard; FFmpeg also takes the last "@" in there
        user, _, host = authority.rpartition("@")
        rest_after = rest[len(authority) :]
    elif ":" in authority and not authority.rpartition(":")[2].isdigit():
        user, _, after = rest.rpartition("@")
        host = re.split(r"[/?#]", after, maxsplit=1)[0]
        rest_after = after[len(host) :]
    else:
        return rest  # host, host:port, and an "@" somewhere in its path
    name, colon, password = user.partition(":")
    return "@".join([colon.join([_quoted(name), _quoted(password)]), host]) + rest_after


def _quoted(text: str) -> str:
    """Percent-encoded, unless it already is: FFmpeg decodes %XX."""
    encoded = "%" if re.search(r"%[0-9a-fA-F]{2}", text) else ""
    return quote(text, safe="!$&'()*+,;=-._~" + encoded, errors="surrogateescape")


def _missing(source: str) -> SourceError:
    if _MEANT.match(source) and source[:5].lower() != "file:":
        return SourceError(
            f"source {shown(source)}: no such file, and not an address, which begins with rtsp://, http:// or the like",
            "missing",
        )
    return SourceError(f"source {visible(source)}: no such file; give a video file or a camera's address", "missing")
