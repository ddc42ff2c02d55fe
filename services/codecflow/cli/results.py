"""`codecflow results`: answers as they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings

if TYPE_CHECKING:
    from codecflow.messages import Result


def register(app: typer.Typer) -> None:
    app.command("results")(results)


def results(
    *,
    stream: Annotated[str | None, typer.Option(help="Follow this stream only.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document a line (schemas/result.schema.json).")
    ] = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with all that are still kept.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many answers.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Stop when no answer has come for so many seconds.")
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Follow answers, each once, as workers commit them. Ctrl-C ends it after those already there."""
    from codecflow.lifecycle import GracefulStop
    from codecflow.subscriber import Follower

    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    with (
        GracefulStop() as stopping,
        Follower(
            settings,
            stream,
            from_beginning=from_beginning,
            timeout_s=timeout,
            stopping=lambda: stopping.requested,
        ) as follower,
    ):
        for number, result in enumerate(follower, 1):
            print(json_line(result) if json else line(result), flush=True)
            if number == count:
                break


def json_line(result: Result) -> str:
    """The document on the topic, with the stream that is its record's key."""
    import orjson

    from codecflow.messages import encode_result

    _, value = encode_result(result)
    return orjson.dumps({"stream": result.stream, **orjson.loads(value)}).decode()


def line(result: Result) -> str:
    """One answer for people."""
    answer = result.answer.strip().replace("\n", " ") or "(nothing)"
    if result.p_yes is not None:
        answer = f"{answer} (p(yes) {result.p_yes:.2f})"
    elif result.label_probabilities:
        answer = f"{answer} ({result.label_probabilities.get(result.answer, 0):.2f})"
    kept = result.tokens.kept / result.tokens.total if result.tokens.total else 0
    notes = [f"{kept:.0%} of tokens", f"{sum(result.seconds.values()):.2f} s"]
    if result.frames.missing:
        notes.append(f"{result.frames.missing} of {result.frames.expected} frames missing")
    if result.restarted:
        notes.append("restarted")
    if not result.trained:
        notes.append("untrained model")
    window = f"{_clock(result.start_s)}-{_clock(result.end_s)}"
    return f"{result.stream}  {window}  {result.question}: {answer}  [{', '.join(notes)}]"


def _clock(seconds: float) -> str:
    """Presentation time as minutes:seconds, hours in front where there are any."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    shown = f"{rest:02.0f}" if rest == int(rest) else f"{rest:04.1f}"
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"
