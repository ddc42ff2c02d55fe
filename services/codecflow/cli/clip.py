"""`codecflow clip`: a file cut from what packets hold of a stream."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from codecflow.errors import ConfigError

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings


def register(app: typer.Typer) -> None:
    app.command("clip")(clip)


def clip(
    stream: Annotated[str, typer.Argument(help="Stream id.")],
    *,
    begin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="T",
            help="Start: a time of day such as 14:03:22, today's or yesterday's; with a date and a zone "
            "2026-11-28T14:03:22+01:00; or seconds of presentation time, such as 52 or 0:52.",
        ),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="T", help="End, in the format of --from.")] = None,
    event: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Cut this event instead, as codecflow events names it: from 10 s before to 5 s after it."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="MP4 file to write.  [default: STREAM.mp4]")] = None,
    epoch: Annotated[
        int | None,
        typer.Option(min=0, help="The epoch that seconds refer to, as in results.  [default: the newest]"),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Time zone of times of day, such as Europe/Berlin.  [default: this machine's]"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Cut what STREAM showed between two times into an MP4 file, without re-encoding.

    The file contains the coded pictures from the keyframe before the start, and plays from the requested time. If the
    camera was lost in between, or its picture size changed, several files are written.
    """
    from codecflow.subscriber.clip import write_clip
    from codecflow.subscriber.evidence import find_event, span, write_evidence
    from codecflow.subscriber.recording import Recording, moment
    from codecflow.subscriber.times import parse_range

    times = None
    if event is None:
        if begin is None or end is None:
            raise ConfigError("clip: give --from and --to, or --event ID")
        times = parse_range(begin, end, zone, epoch)
    elif (begin, end, epoch, zone) != (None, None, None, None):
        raise ConfigError("clip: --event replaces --from, --to, --epoch and --zone")
    path = out or Path(f"{stream.replace(':', '_')}.mp4")
    if os.path.exists(path) and not force:
        raise ConfigError(f"{path}: already exists; choose another name with -o, or overwrite it with --force")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"{path}: there is no folder {path.parent}")
    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    with Recording(settings, stream) as recording:
        if times is not None:
            cut = write_clip(recording, *times.places(recording), path)
        else:
            assert event is not None
            cut = write_evidence(recording, *span(find_event(settings, stream, event)[-1]), path)
    for file in cut.files:
        width, height = file.size
        typer.echo(
            f"{file.path}: {file.seconds:.1f} s from {moment(file.begin_ms)} on, {file.pictures} pictures, "
            f"{file.codec} {width}x{height}, epoch {file.epoch}"
        )
