"""`codecflow ask`: the questions of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from codecflow.errors import ConfigError
from codecflow.text import one_line

from .options import DEFAULT_PREFIX, BootstrapServers, KafkaConfig, Properties, TopicPrefix, kafka_settings

if TYPE_CHECKING:
    from codecflow.messages import Question


def register(app: typer.Typer) -> None:
    app.command("ask")(ask)


def ask(
    stream: Annotated[str, typer.Argument(help="Stream id; the stream need not exist yet.")],
    question: Annotated[str | None, typer.Argument(help="The question, in words.")] = None,
    *,
    yes_no: Annotated[bool, typer.Option("--yes-no", help="Answer yes or no, with the probability of yes.")] = False,
    choice: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Answer with one of these, with the probability of each.")
    ] = None,
    question_id: Annotated[
        str | None,
        typer.Option(
            "--id", help="Id of the question; a question with the same id is replaced. By default made of its words."
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Maximum number of tokens of a text answer.")] = 32,
    event: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Which change in the answers is an event: `yes>=0.8`, `red` or `change`, then options such as "
            "`below=0.5,windows=2/3,for=10,cooldown=60` (docs/how-to/events.md). Without it the question causes no events.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Only print the questions.")] = False,
    remove: Annotated[str | None, typer.Option(metavar="ID", help="Remove this question.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all questions.")] = False,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Ask a question of every window of STREAM from the next one on, without a restart; print its questions."""
    from codecflow import subscriber
    from codecflow.messages import zones_in_prompt

    if sum([question is not None, show, remove is not None, clear]) != 1:
        raise ConfigError('ask: give one of "question", --list, --remove ID or --clear')
    if event is not None and question is None:
        raise ConfigError("ask: --event requires a question")
    settings = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
    if question is not None:
        labels = [label.strip() for label in choice.split(",")] if choice is not None else []
        one = subscriber.question(
            question, yes_no=yes_no, choices=labels, name=question_id, max_tokens=max_tokens, event=event
        )
        description = subscriber.ask(settings, stream, one)
    elif remove is not None:
        description = subscriber.remove(settings, stream, remove)
    elif clear:
        description = subscriber.clear(settings, stream)
    else:
        description = subscriber.read_description(settings, stream)
    if question is not None and "in the zone" in question.lower() and not zones_in_prompt(question, description.zones):
        typer.echo(
            f"codecflow: stream {stream} has no zone that the question names; the question is asked as it is", err=True
        )
    if not description.questions:
        typer.echo(f"{stream}: no questions configured")
    for each in description.questions:
        typer.echo(f"{stream}  {question_line(each)}")


def question_line(question: Question) -> str:
    """One line for people: its id, type, words and rule."""
    from codecflow.events.syntax import rule_text

    kind = f"choice: {', '.join(question.labels)}" if question.type == "choice" else question.type
    rule = "" if question.event is None else f"  event: {one_line(rule_text(question.event))}"
    return f"{one_line(question.id)}  [{one_line(kind)}]  {one_line(question.prompt)}{rule}"
