"""What the demo follows while it runs: published records, answers, and the lines that it prints."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import IO

from rich.console import Console

from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import PictureMetadata, Result, decode_metadata
from codecflow.subscriber.lines import read_result_json


class Published:
    """Counts what the producer has published: number of `pictures`, and their latest presentation time in seconds."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.pictures = 0
        self.seconds = 0.0
        self._tail = TopicTail(settings, settings.topics.metadata)

    def update(self, *, to_end: bool = False) -> None:
        """Reads new records; with `to_end` waits until all records published by now have been read."""
        for record in self._tail.catch_up() if to_end else self._tail.poll():
            document = decode_metadata(record.key(), record.value())
            if isinstance(document, PictureMetadata):
                self.pictures += 1
                self.seconds = max(self.seconds, document.time_s)

    def __enter__(self) -> Published:
        return self

    def __exit__(self, *_: object) -> None:
        self._tail.close()


class Answers:
    """The output of `codecflow results --json`, read as it arrives."""

    def __init__(self, output: IO[bytes]) -> None:
        self.all: list[Result] = []
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._read, args=(output,), daemon=True).start()

    def arrived(self, timeout_s: float) -> Iterator[Result]:
        """Results that have arrived; waits for the first one."""
        with suppress(queue.Empty):
            while (line := self._lines.get(timeout=timeout_s)) is not None:
                yield self._take(line)
                timeout_s = 0.0

    def rest(self) -> Iterator[Result]:
        """Results until the follower's end, after a stop has been requested."""
        while (line := self._lines.get()) is not None:
            yield self._take(line)

    def _take(self, line: bytes) -> Result:
        self.all.append(read_result_json(line))
        return self.all[-1]

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            self._lines.put(line)
        self._lines.put(None)


def show_address(output: IO[bytes], stream: str, display: Display) -> None:
    """Shows the address of a stream's page, once `codecflow page` has printed it."""

    def read() -> None:
        for line in output:
            if line.startswith(b"page: "):
                address = line.decode(errors="replace").split()[1]
                display.line(f"watch it in a browser: {address}#{stream}", style="bold")

    threading.Thread(target=read, daemon=True).start()


PLAIN_EVERY_S = 5.0
"""Interval of status lines if standard error is not a terminal."""


class Display:
    """Lines on standard output; the status on standard error, live on a terminal, otherwise as occasional lines."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, soft_wrap=True, markup=False)
        self._error = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._live = self._error.status("") if self._error.is_terminal else None
        self._last_status = ("", time.monotonic())

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def line(self, text: str = "", style: str | None = None) -> None:
        self._out.print(text, style=style)

    def warn(self, text: str) -> None:
        self._out.print(text, style="bold yellow")

    def status(self, text: str) -> None:
        if self._live:
            self._live.update(text)
            return
        before, at = self._last_status
        if text != before and time.monotonic() - at >= PLAIN_EVERY_S:
            self._last_status = (text, time.monotonic())
            self._error.print(text)
