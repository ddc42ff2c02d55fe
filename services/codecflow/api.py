"""CodecFlow from Python: the same code as the commands `produce`, `ask` and `results`.

import codecflow

codecflow.ask("gate", "Is a person in view?", yes_no=True)
codecflow.publish("rtsp://camera/stream", stream="gate")            # until a stop is requested
for result in codecflow.subscribe("gate"):
    print(result.start_s, result.answer, result.p_yes)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

from codecflow import subscriber
from codecflow.kafka.settings import DEFAULT_TOPIC_PREFIX, KafkaSettings
from codecflow.lifecycle import GracefulStop
from codecflow.messages import StreamDescription

if TYPE_CHECKING:
    from codecflow.codec.opening import RtspTransport
    from codecflow.producer.summary import Summary


def publish(
    source: str | Path,
    *,
    stream: str,
    fast: bool = False,
    loop: bool = False,
    signal_interval_s: float | Fraction | None = None,
    transcode: str | None = None,
    timeout_s: float = 10.0,
    track: int | None = None,
    rtsp_transport: str = "auto",
    tls_ca: Path | None = None,
    insecure: bool = False,
    stop: GracefulStop | None = None,
    progress: Callable[[Summary], None] = lambda summary: None,
    notice: Callable[[str], None] = lambda line: None,
    bootstrap_servers: str | None = None,
    topic_prefix: str | None = None,
    properties: Mapping[str, str] | None = None,
) -> Summary:
    """Publishes a video file or a camera's address as `stream` until it ends or a stop is requested. Returns a summary.

    `fast`: a file as fast as the brokers accept it, not in real time. `loop`: a file repeatedly. `signal_interval_s`:
    seconds of presentation time between two signal pictures, half a second by default. `transcode`: re-encode at the
    sampling rate, as in "fps=2,gop=16"; otherwise pictures are published unchanged. `timeout_s`: a camera that sends nothing
    for this many seconds is reconnected. `track`: which of several video tracks, counted from 1. `rtsp_transport`: tcp, udp
    or auto. `tls_ca`: file of the certificates (PEM) to trust instead of the system's; `insecure`: check none. `stop`:
    another thread ends it cleanly with `stop.request()`. `progress` is called about twice per second, `notice` with a line
    for people, such as when a camera is lost and found. Kafka as in `subscribe`.

    Raises SourceError, KafkaError or ConfigError (codecflow.errors), whose text is one line.
    """
    from codecflow.codec.opening import SourceOptions
    from codecflow.codec.transcode import Transcode
    from codecflow.producer.options import ProduceOptions
    from codecflow.producer.run import produce

    options = ProduceOptions(
        fast=fast,
        loop=loop,
        interval=None if signal_interval_s is None else Fraction(signal_interval_s).limit_denominator(1000),
        transcode=None if transcode is None else Transcode.parse(transcode),
        source=SourceOptions(
            timeout_s, track, cast("RtspTransport", rtsp_transport), tls_ca, insecure, piped_live=not fast
        ),
    )
    settings = _settings(bootstrap_servers, topic_prefix, properties)
    return produce(settings, str(source), stream, options, stop, progress, notice)


def subscribe(
    stream: str | None = None,
    *,
    from_beginning: bool = False,
    timeout_s: float | None = None,
    bootstrap_servers: str | None = None,
    topic_prefix: str | None = None,
    properties: Mapping[str, str] | None = None,
) -> subscriber.Follower:
    """An iterator of results (codecflow.messages.Result) of `stream`, or of all streams, each once, as they are committed.

    It starts with results committed after this call, or with `from_beginning` with the oldest that are retained, and ends
    when none has arrived for `timeout_s` seconds (None: never). A `with` block, or `close()`, releases its connection.

    `bootstrap_servers` (host:port,...) defaults to CODECFLOW_BOOTSTRAP_SERVERS of the environment, else localhost:9092;
    `topic_prefix` to CODECFLOW_TOPIC_PREFIX, else codecflow; `properties` are passed to librdkafka (SASL, TLS ...).
    """
    settings = _settings(bootstrap_servers, topic_prefix, properties)
    return subscriber.Follower(settings, stream, from_beginning=from_beginning, timeout_s=timeout_s)


def ask(
    stream: str,
    prompt: str,
    *,
    yes_no: bool = False,
    choices: Sequence[str] = (),
    question_id: str | None = None,
    max_tokens: int = 32,
    bootstrap_servers: str | None = None,
    topic_prefix: str | None = None,
    properties: Mapping[str, str] | None = None,
) -> StreamDescription:
    """Asks `prompt` of every window of `stream` from its next one on. Returns the stream's current questions.

    Answered yes or no (`yes_no`), with one of `choices`, or else in at most `max_tokens` tokens of free text. A question
    with the same `question_id` (derived from the prompt by default) is replaced. Kafka as in `subscribe`.
    """
    question = subscriber.question(prompt, yes_no=yes_no, choices=choices, name=question_id, max_tokens=max_tokens)
    return subscriber.ask(_settings(bootstrap_servers, topic_prefix, properties), stream, question)


def _settings(
    bootstrap_servers: str | None, topic_prefix: str | None, properties: Mapping[str, str] | None
) -> KafkaSettings:
    return KafkaSettings.from_options(
        bootstrap_servers or os.environ.get("CODECFLOW_BOOTSTRAP_SERVERS"),
        topic_prefix or os.environ.get("CODECFLOW_TOPIC_PREFIX") or DEFAULT_TOPIC_PREFIX,
        [f"{name}={value}" for name, value in (properties or {}).items()],
    )
