"""One HTTP request per change of an event, signed, with an idempotency key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import orjson

from .sink import Notification, Sink, SinkOptions, UndeliveredError, key_of

_FINAL = frozenset({400, 410, 413, 415, 422})
"""Statuses about this request, for which every retry would fail as well. All others, including those of a wrong address or
password, may be fixed by an operator."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None  # a signed request must not be redirected to another host


_opener = urllib.request.build_opener(_NoRedirects)


def signature(secret: bytes, at_s: int, body: bytes) -> str:
    """HMAC-SHA256 of the time, a full stop and the body, in hexadecimal digits."""
    return hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()


class Webhook(Sink):
    """`secret`: None for requests that are not signed."""

    kind = "webhook"

    def __init__(self, options: SinkOptions, url: str, secret: bytes | None) -> None:
        super().__init__(options)
        self._url, self._secret = url, secret

    @property
    def place(self) -> str:
        return urlsplit(self._url).hostname or ""

    @property
    def notes(self) -> str:
        return "signed" if self._secret else "not signed"

    def deliver(self, notification: Notification) -> None:
        document = notification.document()
        if notification.picture is not None:
            data = base64.b64encode(notification.picture).decode()
            document["picture"] = {"content_type": "image/jpeg", "base64": data}
        body = orjson.dumps(document)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "codecflow",
            "Idempotency-Key": key_of(notification.event),
        }
        if self._secret is not None:
            at_s = int(time.time())
            headers["X-CodecFlow-Signature"] = f"t={at_s},v1={signature(self._secret, at_s, body)}"
        try:
            request = urllib.request.Request(self._url, body, headers, method="POST")
            with _opener.open(request, timeout=self.options.timeout_s):
                return
        except urllib.error.HTTPError as error:
            error.close()
            raise UndeliveredError(f"status {error.code}", error.code in _FINAL) from None
        except urllib.error.URLError as error:
            reason = getattr(error.reason, "strerror", None) or type(error.reason).__name__
            raise UndeliveredError(str(reason)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UndeliveredError(f"no answer ({type(error).__name__})") from None
