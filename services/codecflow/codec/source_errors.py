"""What FFmpeg says when a source fails, as one clear line and a code word to count by."""

from __future__ import annotations

import av.error

from codecflow.errors import SourceError

_ADVICE = {
    "auth": "the camera refused the user name or password; check the address",
    "tls": "the secure connection failed; check the certificate and the address",
    "timeout": "nothing came within the time-out; check that the camera is on and reachable",
    "codec": "not a video that FFmpeg can read, or cut off before its index",
    "gone": "the connection was refused, broken or ended",
    "missing": "nothing is there under this address",
}


def source_error(name: str, error: Exception, *, opening: bool) -> SourceError:
    """The SourceError for an FFmpeg error on the source shown as `name`.

    Only the kind of the error is used: FFmpeg's texts repeat the address with its password.
    """
    code = _code(error, opening)
    doing = "cannot be opened" if opening else "failed"
    return SourceError(f"source {name}: {doing}: {code}: {_ADVICE[code]}", code)


def _code(error: Exception, opening: bool) -> str:
    text = (getattr(error, "strerror", None) or "").lower()
    match error:
        case av.error.HTTPUnauthorizedError() | av.error.HTTPForbiddenError():
            return "auth"
        case av.error.HTTPNotFoundError() | av.error.FileNotFoundError():
            return "missing"
        case av.error.TimeoutError() | av.error.ExitError():
            return "timeout"
        case av.error.InvalidDataError() | av.error.DecoderNotFoundError() | av.error.ProtocolNotFoundError():
            return "codec" if opening else "gone"
    if "tls" in text or "certificate" in text or "ssl" in text:
        return "tls"
    return "gone"
