"""`codecflow produce`: publish a file or camera as a stream."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecflow import logs

from .options import (
    DEFAULT_PREFIX,
    BootstrapServers,
    KafkaConfig,
    MaxPictureSize,
    MetricsPort,
    Properties,
    TopicPrefix,
    kafka_settings,
    picture_pixels,
)
from .status import StatusLine, last_words

if TYPE_CHECKING:
    from codecflow.producer.summary import Summary


def register(app: typer.Typer) -> None:
    app.command("produce")(produce)


def produce(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A video file, a camera's address (rtsp://..., http://..., udp://...), - for standard input, or @FILE "
            "whose first line is one of these, so that a password is on no command line. A file whose name begins with a "
            "dash: ./-name.",
        ),
    ],
    *,
    stream: Annotated[str, typer.Option("--stream", metavar="ID", help="Stream id to publish as.")],
    fast: Annotated[
        bool, typer.Option("--fast", help="Publish a file as fast as the brokers accept it, not in real time.")
    ] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Play a file again after its end, until stopped.")] = False,
    signal_interval: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS",
            help="Presentation time between signal pictures, such as 0.5 or 1/3.  [default: 0.5]",
            show_default=False,
        ),
    ] = None,
    transcode: Annotated[
        str | None,
        typer.Option(
            metavar="fps=N,gop=M",
            help="Re-encode at the sampling rate (H.264 Baseline), such as fps=2,gop=16; add crf=Q for its quality. By"
            " default pictures are published untouched.",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="Reconnect to a camera that has been silent for this long."),
    ] = 10.0,
    track: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Which of several video tracks, counted from 1.  [default: the first]",
            show_default=False,
        ),
    ] = None,
    rtsp_transport: Annotated[
        str, typer.Option(metavar="tcp|udp|auto", help="Transport of an RTSP camera; auto: TCP, with fallback to UDP.")
    ] = "auto",
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Certificates (PEM) to trust for https and rtsps instead of the system's: the camera's own, or its "
            "authority's.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Do not check certificates: the password may go to an impostor.")
    ] = False,
    max_picture_size: MaxPictureSize = "8192x8192",
    metrics_port: MetricsPort = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with the summary as one JSON line.")] = False,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Publish a file or camera: every coded picture untouched, with the codec signal as metadata.

    Ctrl-C or SIGTERM ends the stream cleanly; a second one quits at once.
    """
    from codecflow.codec.addresses import shown
    from codecflow.codec.opening import SourceOptions
    from codecflow.codec.transcode import Transcode
    from codecflow.exact import positive
    from codecflow.lifecycle import GracefulStop
    from codecflow.producer.options import ProduceOptions
    from codecflow.producer.run import produce as run
    from codecflow.producer.summary import Summary
    from codecflow.tracing import traced

    atexit.register(_leave_garbage)
    summary = Summary(stream, shown(source))
    logs.bind(stream=stream)

    def notice(line: str) -> None:
        status.notice(logs.Notice(line, epoch=summary.epoch or None))

    with last_words(summary, as_json):
        settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
        source = _named_in_file(source)
        options = ProduceOptions(
            fast=fast,
            loop=loop,
            interval=None if signal_interval is None else positive(signal_interval, "--signal-interval"),
            transcode=Transcode.parse(transcode) if transcode else None,
            max_pixels=picture_pixels(max_picture_size),
            source=SourceOptions(
                timeout_s=timeout,
                track=track,
                rtsp_transport=rtsp_transport,  # type: ignore[arg-type]  # checked there
                tls_ca=tls_ca,
                insecure=insecure,
                piped_live=not fast,
            ),
        )
        with (
            traced("codecflow-producer"),
            _monitoring(metrics_port, summary),
            GracefulStop() as stop,
            StatusLine("opening the source", every_s=10.0) as status,
        ):
            run(settings, source, stream, options, stop, status.show, notice, summary)
        if summary.lost and not summary.live:
            _raise_loss(summary, settings.topics.packets)


def _monitoring(address: str | None, summary: Summary) -> AbstractContextManager[object]:
    if address is None:
        return nullcontext()
    from codecflow.monitoring.server import Health, MonitoringServer
    from codecflow.producer.metrics import is_up, producer_samples

    def health() -> Health:
        return Health(started=summary.pictures > 0, ready=is_up(summary))

    return MonitoringServer(address, health, lambda: producer_samples(summary))


def _leave_garbage() -> None:
    """The process ends: collecting garbage first would take 0.15 s of a core, also after Ctrl-C. (Not with torch, whose
    libraries then report what they hold.)"""
    if "torch" not in sys.modules:
        gc.freeze()


def _named_in_file(source: str) -> str:
    """`source` itself, or for @FILE what the file's first line says."""
    from codecflow.errors import ConfigError

    name = Path(source[1:])
    if not source.startswith("@") or (os.path.isfile(source) and not os.path.exists(name)):
        return source
    try:
        lines = name.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"source {source}: {reason}; its first line must be a file or a camera's address") from None
    if not lines[0].strip():
        raise ConfigError(f"source {source}: its first line is empty; it must be a file or a camera's address")
    return lines[0].strip()


def _raise_loss(summary: Summary, topic: str) -> None:
    """Whoever publishes a file wants to know that some of it is missing; a camera's faults are in its summary."""
    from codecflow.errors import SourceError
    from codecflow.kafka.failures import RecordTooLargeError
    from codecflow.producer.summary import TOO_LARGE

    line = f"stream {summary.stream}: {summary.loss()}"
    if TOO_LARGE in summary.dropped:
        raise RecordTooLargeError(f"{line}; raise max.message.bytes of topic {topic}, or lower the bit rate")
    raise SourceError(f"{line}; the file is cut off or damaged there")
