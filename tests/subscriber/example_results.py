"""Results as a worker commits them, without a worker."""

from __future__ import annotations

from dataclasses import replace

from codecflow.kafka.clients import producer, transactional_producer
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Flops, Frames, Result, Tokens, encode_result

RESULT = Result(
    stream="gate",
    epoch=1_700_000_000_000,
    window=0,
    start_s=0.0,
    end_s=8.0,
    captured_at_ms=1_700_000_008_000,
    answered_at_ms=1_700_000_008_500,
    question="person",
    prompt="Is a person in view?",
    type="yes-no",
    answer="yes",
    p_yes=0.75,
    label_probabilities=None,
    frames=Frames(expected=16, seen=15),
    tokens=Tokens(kept=100, total=400, refreshed=100, reused=0),
    flops=Flops(vit=10, llm=20, full=100),
    seconds={"decode": 0.25, "answer": 0.5},
    keep="replenish",
    refresh="none",
    model="tiny",
    trained=False,
)


def windows(stream: str, count: int) -> list[Result]:
    """One result for each of the first `count` windows of `stream`."""
    return [replace(RESULT, stream=stream, window=n, start_s=0.0, end_s=8.0 * (n + 1)) for n in range(count)]


def commit(settings: KafkaSettings, results: list[Result], *, abort: bool = False) -> None:
    """Publish `results` in one transaction, which is then committed or aborted."""
    client = transactional_producer(settings, f"{settings.topic_prefix}-test")
    client.init_transactions(120)
    client.begin_transaction()
    for result in results:
        key, value = encode_result(result)
        client.produce(f"{settings.topic_prefix}.results", key=key, value=value)
    if abort:
        client.abort_transaction(120)
    else:
        client.commit_transaction(120)


def publish_raw(settings: KafkaSettings, name: str, key: str, value: bytes | None) -> None:
    """Any bytes on any topic, as from a program that ignores the contract."""
    client = producer(settings)
    client.produce(f"{settings.topic_prefix}.{name}", key=key.encode(), value=value)
    assert client.flush(120) == 0
