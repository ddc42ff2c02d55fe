"""A worker's figures as metrics."""

from __future__ import annotations

from collections.abc import Iterator

from codecflow.monitoring import metrics as m
from codecflow.monitoring.metrics import MAX_STREAMS, Sample

from .summary import Summary


def worker_samples(summary: Summary) -> Iterator[Sample]:
    """Metrics of `summary`, which another thread keeps updating."""
    for outcome, count in (
        ("answered", summary.windows - summary.without_questions),
        ("no-questions", summary.without_questions),
        ("refused", summary.refused),
        ("skipped", summary.total("windows-skipped")),
        ("behind", summary.total("windows-behind")),
    ):
        yield Sample(m.WINDOWS, count, (outcome,))
    yield Sample(m.RESULTS, summary.answers, ("answer",))
    yield Sample(m.RESULTS, summary.errors, ("error",))
    yield Sample(m.RESTARTED, summary.restarted)
    yield Sample(m.FRAMES_MISSING, summary.frames_missing)
    for kind, count in (
        ("kept", summary.tokens_kept),
        ("dropped", summary.tokens_total - summary.tokens_kept),
        ("refreshed", summary.tokens_refreshed),
        ("reused", summary.tokens_reused),
    ):
        yield Sample(m.TOKENS, count, (kind,))
    yield Sample(m.FLOPS, summary.flops, ("spent",))
    yield Sample(m.FLOPS, summary.flops_full, ("full",))
    yield Sample(m.PICTURES, summary.total("pictures"), ("published",))
    yield Sample(m.PICTURES, summary.total("pictures-decoded"), ("decoded",))
    yield Sample(m.PICTURES, summary.pictures_lost, ("lost",))
    held = summary.held
    yield Sample(m.BEHIND, summary.behind_s)
    late = sorted(((one.behind_s, name) for name, one in held.items() if one.behind_s is not None), reverse=True)
    for behind_s, name in late[:MAX_STREAMS]:
        yield Sample(m.STREAM_BEHIND, max(behind_s, 0.0), (name,))
    yield Sample(m.STREAMS, len(held))
    yield Sample(m.PARTITIONS, summary.partitions)
    yield Sample(m.LAG, summary.lag)
    yield Sample(m.KV_BYTES, summary.kv_bytes)
    yield Sample(m.WAITING_BYTES, summary.queue_bytes, ("coded",))
    yield Sample(m.WAITING_BYTES, summary.frame_bytes, ("frames",))
    for stage, figures in summary.stages.items():
        yield Sample(m.STAGE_BUSY, sum(figures.busy_s), (stage,))
        yield Sample(m.STAGE_QUEUE, figures.queue, (stage,))
    for kind, seconds in summary.seconds.copy().items():
        yield Sample(m.WORK, seconds, (kind,))
    yield Sample(m.REBALANCES, summary.rebalances)
    yield Sample(m.TRANSACTIONS, summary.transactions, ("committed",))
    yield Sample(m.TRANSACTIONS, summary.fenced, ("fenced",))
    yield Sample(m.SAMPLER_DEATHS, summary.sampler_deaths)
    yield Sample(m.DEAD_LETTERS, summary.dead_letters)
