"""One HTTP request per change of an event, signed, with an idempotency key."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import time
import urllib.error
import urllib.request
from typing import Any

import orjson

from codecflow.messages import Event, encode_event

from .config import Webhook

_FINAL = frozenset({400, 410, 413, 415, 422})
"""Statuses that are about this request, so that no later try is taken. After all others, those of a wrong address or
password among them, somebody may mend it."""


class UndeliveredError(Exception):
    """It was not taken. `final`: nor will it be. Its text names no address."""

    def __init__(self, text: str, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None  # a signed request is for whom it was written to


_opener = urllib.request.build_opener(_NoRedirects)


def key_of(event: Event) -> str:
    """The same for each try to tell of this change, and of no other."""
    return f"{event.id}-{event.number}"


def signature(secret: bytes, at_s: int, body: bytes) -> str:
    """HMAC-SHA256 of the time, a full stop and the body, in hexadecimal digits."""
    return hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()


def deliver(sink: Webhook, event: Event) -> None:
    """Tell of one change; returns once it is taken. Raises UndeliveredError."""
    _, value = encode_event(event)
    document = {"text": sink.words(event), "event": {"stream": event.stream, **orjson.loads(value)}}
    body = orjson.dumps(document)
    headers = {"Content-Type": "application/json", "User-Agent": "codecflow", "Idempotency-Key": key_of(event)}
    if sink.secret is not None:
        at_s = int(time.time())
        headers["X-CodecFlow-Signature"] = f"t={at_s},v1={signature(sink.secret, at_s, body)}"
    try:
        request = urllib.request.Request(sink.url, body, headers, method="POST")
        with _opener.open(request, timeout=sink.timeout_s):
            return
    except urllib.error.HTTPError as error:
        error.close()
        raise UndeliveredError(f"status {error.code}", error.code in _FINAL) from None
    except urllib.error.URLError as error:
        raise UndeliveredError(str(getattr(error.reason, "strerror", None) or type(error.reason).__name__)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UndeliveredError(f"no answer ({type(error).__name__})") from None
