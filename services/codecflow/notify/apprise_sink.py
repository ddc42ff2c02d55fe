"""E-mail and chat through the library apprise, which supports about a hundred services by address."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import apprise

from codecflow.errors import ConfigError

from .sink import Notification, Sink, SinkOptions, UndeliveredError

# Its messages can contain addresses with tokens; failures are reported by this sink.
logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)


class Apprise(Sink):
    """One apprise address: mailtos://user:password@example.org, slack://..., ntfy://... . Raises ConfigError if apprise does
    not know it."""

    kind = "apprise"

    def __init__(self, options: SinkOptions, url: str) -> None:
        super().__init__(options)
        service = apprise.Apprise.instantiate(url, suppress_exceptions=True)
        if not isinstance(service, apprise.NotifyBase):
            raise ConfigError("apprise does not support its address: see https://appriseit.com/services/")
        service.socket_connect_timeout = service.socket_read_timeout = options.timeout_s
        self._service = service

    @property
    def place(self) -> str:
        host = getattr(self._service, "smtp_host", None) or self._service.host
        name = str(self._service.service_name)
        # In addresses such as slack://TOKEN/... the host part is a token.
        return f"{name} at {host}" if self._service.port or "." in str(host or "") else name

    def deliver(self, notification: Notification) -> None:
        event, picture = notification.event, notification.picture
        title = f"{event.stream}: {event.question or event.kind} {event.change}"
        with tempfile.TemporaryDirectory() as folder:
            attached = None
            if picture is not None and self._service.attachment_support:
                file = Path(folder) / f"{event.stream.replace(':', '_')}.jpg"
                file.write_bytes(picture)
                attached = apprise.AppriseAttachment(str(file))
            try:
                sent = self._service.notify(body=notification.text, title=title, attach=attached)
            except Exception as error:  # noqa: BLE001  # its services raise what the libraries below them raise
                raise UndeliveredError(type(error).__name__) from None
        if not sent:
            raise UndeliveredError("it was refused, or there was no answer")
