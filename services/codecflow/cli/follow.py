"""Commands that print what a topic carries, as it is committed: one line or one JSON document per message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from codecflow.kafka.settings import KafkaSettings
    from codecflow.subscriber.results import TopicFollower

T = TypeVar("T")

Stream = Annotated[str | None, typer.Option(help="Follow this stream only.")]
FromBeginning = Annotated[bool, typer.Option("--from-beginning", help="Begin with the oldest that Kafka still holds.")]
Count = Annotated[int | None, typer.Option(min=1, help="Stop after this many.")]
Timeout = Annotated[float | None, typer.Option(min=0, help="Stop when none has arrived for this many seconds.")]


def follow(
    follower: type[TopicFollower[T]],
    settings: KafkaSettings,
    stream: str | None,
    write: Callable[[T], str],
    *,
    from_beginning: bool,
    count: int | None,
    timeout: float | None,
) -> None:
    """Print each message as `write` has it, until Ctrl-C, `count` messages or `timeout` seconds without one."""
    from codecflow.lifecycle import GracefulStop

    with (
        GracefulStop() as stopping,
        follower(
            settings,
            stream,
            from_beginning=from_beginning,
            timeout_s=timeout,
            stopping=lambda: stopping.requested,
        ) as messages,
    ):
        for number, message in enumerate(messages, 1):
            print(write(message), flush=True)
            if number == count:
                break
