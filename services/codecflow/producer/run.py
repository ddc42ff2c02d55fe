"""The producer service: one source, one stream, one loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from codecflow.codec.addresses import shown
from codecflow.codec.reader import Reader, StoppedError
from codecflow.codec.source import Source
from codecflow.codec.transcode import Transcoder
from codecflow.errors import SourceError
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import check_topics, largest_record_bytes
from codecflow.lifecycle import GracefulStop
from codecflow.messages import CodedPicture, check_stream_id

from .epoch import EpochPublisher
from .newest_epoch import next_epoch
from .options import ProduceOptions
from .reconnect import Reconnects
from .summary import Summary, WireBytes

PROGRESS_EVERY_S = 0.5
LONGEST_GAP_S = 60.0
"""Longest wait for a gap in a file's times. The times themselves stay unchanged."""

LONGEST_TIMEOUT_S = 60.0
"""To which the time-out grows for a camera whose pictures are further apart."""

METADATA_LINGER_MS = 1500
"""How long metadata waits to be batched: documents compress better together. Answers, which come every stride, can wait."""

METADATA_PROPERTIES: dict[str, str | int] = {
    "compression.type": "zstd",
    "compression.level": 12,
    "linger.ms": METADATA_LINGER_MS,
}
"""For the metadata's client. On so few bytes the level has no measurable cost, and saves a tenth of them."""


def produce(
    settings: KafkaSettings,
    url: str,
    stream: str,
    options: ProduceOptions | None = None,
    stop: GracefulStop | None = None,
    progress: Callable[[Summary], None] = lambda summary: None,
    notice: Callable[[str], None] = lambda line: None,
    summary: Summary | None = None,
) -> Summary:
    """Publish a file or camera until it ends or `stop` is set; returns the summary.

    `progress` is called about twice per second with the figures so far, `notice` with a line for people when a camera is
    lost or reconnected, and for anything unusual about a source. `summary`: holds the figures, available also after an
    error. Raises ConfigError, SourceError or KafkaError.
    """
    check_stream_id(stream)
    summary = summary or Summary(stream, shown(url))
    run = _Run(settings, url, stream, options or ProduceOptions(), stop or GracefulStop(), progress, notice, summary)
    try:
        source = run.open()
    except StoppedError:
        return summary
    with source:
        return run.run(source)


class _Run:
    def __init__(
        self,
        settings: KafkaSettings,
        url: str,
        stream: str,
        options: ProduceOptions,
        stop: GracefulStop,
        progress: Callable[[Summary], None],
        notice: Callable[[str], None],
        summary: Summary,
    ) -> None:
        self._summary = summary
        self._settings, self._url, self._stream, self._options = settings, url, stream, options
        self._stop, self._progress, self._notice = stop, progress, notice
        self._source = self._options.source
        self._next_progress = 0.0
        self._noticed: set[str] = set()

    def open(self) -> Source:
        """The source, newly opened. Raises SourceError, and StoppedError when the run is to stop."""
        stop = self._stop
        return Source(self._url, self._source, stopped=lambda: stop.requested, notice=self._notice_once)

    def run(self, source: Source) -> Summary:
        self._summary.source, self._summary.codec, self._summary.live = source.name, source.codec, source.live
        try:
            self._partitions, self._largest = self._topics()
        except StoppedError:
            return self._summary
        self._sent = WireBytes()
        # Compression does not reduce coded video, but the headers of its records: 8 % of a quiet stream. A whole batch must
        # stay below the broker's limit.
        plain = {"compression.type": "zstd", "compression.level": 1, "batch.size": min(1_000_000, self._largest)}
        stop = self._stop

        def stopping() -> bool:
            return stop.requested

        with (
            RecordSender(self._settings, stopping, **plain) as packets,
            RecordSender(self._settings, stopping, **METADATA_PROPERTIES, **self._sent.properties()) as metadata,
        ):
            self._senders = (packets, metadata)
            self._epochs(source)
            if not self._stop.requested:
                self._sent.settle(metadata)
        self._summary.metadata_sent_bytes = self._sent.total
        self._progress(self._summary)
        return self._summary

    def _topics(self) -> tuple[int, int]:
        """Partition count, and bytes of the largest record. Waits for brokers that do not answer, but not after a stop."""

        def checked() -> tuple[int, int]:
            return check_topics(self._settings), largest_record_bytes(self._settings, self._settings.topics.packets)

        waiting = Reader(lambda: self._stop.requested)
        try:
            return waiting.call(checked, math.inf)
        finally:
            waiting.close(lambda: None)

    def _epochs(self, source: Source) -> None:
        """One epoch after another, a new one for each reconnect."""
        reconnects = Reconnects(self.open, self._stop, self._notice)
        epoch = 0
        while True:
            epoch = next_epoch(self._settings, self._stream, self._partitions, self._notice_once, epoch)
            publisher = EpochPublisher(
                self._stream,
                epoch,
                self._options.signal_interval,
                self._senders,
                self._settings.topics,
                self._largest,
                self._summary,
                self._options.max_pixels,
            )
            try:
                with suppress(StoppedError):
                    self._play(source, publisher, epoch)
                if source.again and not self._stop.requested:
                    raise SourceError(f"source {source.name}: failed: gone: the camera ended the stream")
            except SourceError as error:
                publisher.finish()
                if not source.again:
                    raise
                publisher.lost(error.code)
                if error.code == "timeout" and publisher.next_seq <= 2:
                    self._wait_longer(source.name)
                try:
                    found = reconnects.again(error)
                except SourceError:
                    publisher.close()
                    raise
                self._summary.reconnects = reconnects.count
                if found is None:
                    publisher.close()
                    return
                source = found
            else:
                publisher.close()
                return

    def _wait_longer(self, name: str) -> None:
        """It could be opened, but the next picture did not come within the time-out: they may be further apart."""
        longer = min(2 * self._source.timeout_s, LONGEST_TIMEOUT_S)
        if longer > self._source.timeout_s:
            self._source = replace(self._source, timeout_s=longer)
            self._notice(f"source {name}: waiting up to {longer:g} s for its next picture from now on")

    def _play(self, source: Source, publisher: EpochPublisher, epoch: int) -> None:
        """Every picture of the source until its end or `stop`; a looped file repeatedly, with continuous times. May
        raise StoppedError instead of returning after a stop."""
        pacer = None if self._options.fast or source.live else Pacer(self._stop)
        live = source.live or pacer is not None
        transcoder = self._options.transcode and Transcoder(self._options.transcode)
        seq, shift = 0, 0
        while True:
            begin, end = None, 0
            try:
                for picture in source.pictures(self._stream, epoch, seq, shift):
                    if pacer:
                        pacer.wait(picture)
                    if self._stop.requested:
                        return
                    captured_at_ms = picture.captured_at_ms if source.live else int(time.time() * 1000)
                    now = replace(picture, captured_at_ms=captured_at_ms, live=live)
                    for coded in transcoder.push(now) if transcoder else [now]:
                        publisher.push(coded)
                    self._report()
                    seq = picture.seq + 1
                    if not picture.discard:
                        begin = picture.pts if begin is None else min(begin, picture.pts)
                        end = max(end, picture.pts + picture.duration)
            finally:
                source.close()
                self._summary.dropped.update(source.dropped)
                self._summary.corrected.update(source.corrected)
            if begin is None:
                raise source.without_pictures()
            if not self._options.loop or source.live:
                break
            shift += end - begin
            source = self.open()
        if transcoder:
            for coded in transcoder.flush():
                publisher.push(coded)
            self._summary.dropped.update(transcoder.lost)

    def _notice_once(self, line: str) -> None:
        """A notice about a source, once per run, however often it is opened."""
        if line not in self._noticed:
            self._noticed.add(line)
            self._notice(line)

    def _report(self) -> None:
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_EVERY_S
            self._summary.metadata_sent_bytes = self._sent.total
            self._progress(self._summary)


class Pacer:
    """Real-time pace for files: holds each picture back until its decoding time, as a camera would send it. Starts with the
    first one."""

    def __init__(self, stop: GracefulStop) -> None:
        self._stop = stop
        self._began: float | None = None
        self._first_s = 0.0

    def wait(self, picture: CodedPicture) -> None:
        """Returns when `picture` is due, or immediately when the run is to stop."""
        due_s = float((picture.pts if picture.dts is None else picture.dts) * picture.time_base)
        now = time.monotonic()
        if self._began is None:
            self._began, self._first_s = now, due_s
        ahead = self._began + due_s - self._first_s - now
        if ahead > LONGEST_GAP_S:
            self._began -= ahead - LONGEST_GAP_S
            ahead = LONGEST_GAP_S
        if ahead > 0:
            self._stop.wait(ahead)
