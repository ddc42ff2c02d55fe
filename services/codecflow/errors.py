"""Errors that a user can act on.

Every expected failure is a `CodecFlowError` whose text is one line: what happened, to which stream or file, and what to do
about it. The command line prints that line and exits with `exit_code`; it never shows a traceback for one of these.
"""

from __future__ import annotations


class CodecFlowError(Exception):
    """Something that the user can correct, in one line."""

    exit_code = 1


class ConfigError(CodecFlowError):
    """A setting, name or combination of options that cannot work. Reported before any work starts."""

    exit_code = 2


class SourceError(CodecFlowError):
    """A camera or file that cannot be read, or only partly.

    `code` is a category for counting: missing, read (no permission, a bad disk), codec, protocol, transport (RTSP over TCP
    or UDP), dns, refused, unreachable, auth, tls, timeout, aborted or gone.
    """

    exit_code = 3

    def __init__(self, message: str, code: str = "gone") -> None:
        super().__init__(message)
        self.code = code


class KafkaError(CodecFlowError):
    """A broker that cannot be reached or that refuses a request."""

    exit_code = 4


class MessageError(CodecFlowError):
    """A record that violates the wire contract (schemas/)."""

    exit_code = 5


class ModelError(CodecFlowError):
    """A checkpoint that cannot be loaded, or too little memory for another stream."""

    exit_code = 6
