"""Servers that receive notifications, and a notifier that runs during a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import GracefulStop
from codecflow.messages import Event, encode_event, event_id
from codecflow.notify.config import NotifyConfig, read_config
from codecflow.notify.figures import NotifierFigures
from codecflow.notify.service import Notifier
from codecflow.notify.sink import Sink
from codecflow.storage import Storage

EVENT = Event(
    stream="gate",
    id=event_id("one"),
    number=0,
    change="opened",
    kind="answer",
    epoch=1,
    began_at_ms=1_795_888_851_507,
    at_ms=1_795_888_853_502,
    written_at_ms=1_795_888_889_337,
    reason="p(yes) 1.00",
    question="person",
    prompt="Ist jemand da? 門",
    label="yes",
    probability=0.997,
)


class HttpServer:
    """`answers`: responses to successive requests, then 200. It can be stopped and restarted."""

    def __init__(self, *answers: Callable[[], int]) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._waiting = iter(answers)
        self._port = 0
        self.start()

    def start(self) -> None:
        place, waiting = self, self._waiting

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = next(waiting, lambda: 200)()
                place.headers.append({name.lower(): value for name, value in self.headers.items()})
                place.bodies.append(body)
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self._port}"
        self.url = f"http://{self.address}/hook/token-hush"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def keys(self) -> list[str]:
        return [headers["idempotency-key"] for headers in self.headers]


def config(folder: Path, *tables: str, kind: str = "webhook") -> list[Sink]:
    """The sinks of a file with these tables."""
    return read(folder, "\n".join(f"[[{kind}]]\n{table}" for table in tables)).sinks


def read(folder: Path, text: str) -> NotifyConfig:
    path = folder / "notify.toml"
    path.write_text(text)
    return read_config(path)


@contextmanager
def running(settings: KafkaSettings, sinks: list[Sink], evidence: Storage | None = None) -> Iterator[Running]:
    """A notifier whose sinks all have their position: they get everything sent from now on."""
    one = Running(settings, sinks, evidence)
    try:
        until(lambda: one.figures.health().ready or not one.thread.is_alive(), one.said)
        yield one
    finally:
        one.stop()


class Running:
    def __init__(self, settings: KafkaSettings, sinks: list[Sink], evidence: Storage | None) -> None:
        self.said: list[str] = []
        self.figures = NotifierFigures(sink.options.name for sink in sinks)
        self._stop = GracefulStop()
        notifier = Notifier(settings, sinks, self._stop, self.said.append, evidence, self.figures)
        self.thread = threading.Thread(target=notifier.run)
        self.thread.start()

    def stop(self) -> None:
        self._stop.request()
        self.thread.join(60)
        assert not self.thread.is_alive()


def until(condition: Callable[[], bool], what: object) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def send(settings: KafkaSettings, *events: Event) -> None:
    with RecordSender(settings) as sender:
        for event in events:
            sender.send(Record(settings.topics.events, *encode_event(event), "an event"))
