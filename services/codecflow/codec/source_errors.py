"""What FFmpeg says when a source fails, as one clear line and a code word to count by."""

from __future__ import annotations

import av.error

from codecflow.errors import SourceError

_SECURE = ("https://", "rtsps://", "rtmps://", "tls://")

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
    code = _code(error, opening, secure=name.startswith(_SECURE))
    doing = "cannot be opened" if opening else "failed"
    return SourceError(f"source {name}: {doing}: {code}: {_ADVICE[code]}", code)


def _code(error: Exception, opening: bool, secure: bool) -> str:
    match error:
        case av.error.HTTPUnauthorizedError() | av.error.HTTPForbiddenError():
            return "auth"
        case av.error.HTTPNotFoundError() | av.error.FileNotFoundError():
            return "missing"
        case av.error.TimeoutError() | av.error.ExitError():
            return "timeout"
        case av.error.InvalidDataError() | av.error.DecoderNotFoundError() | av.error.ProtocolNotFoundError():
            return "codec" if opening else "gone"
        case av.error.ConnectionRefusedError() | av.error.ConnectionResetError():
            return "gone"
    # A handshake that fails is a plain input error to FFmpeg, or one of the library that it was built with.
    return "tls" if secure and opening and not isinstance(error, av.error.HTTPError) else "gone"
