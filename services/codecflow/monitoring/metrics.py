"""The list of all metrics: names, units, labels and meanings. Services supply the values.

Base units (seconds, bytes); counters end in `_total` and start at 0 with the process. Of all labels only `stream` takes
values from topics, and `MAX_STREAMS` bounds those.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

MAX_STREAMS = 1000
"""Maximum number of streams with their own time series: if there are more, those furthest behind live."""

_DELAY_BUCKETS_S = (0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300, 900, 3600)


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """A metric's description. Counters are published with `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric, with the values of its labels."""

    metric: MetricDefinition
    value: float
    labels: tuple[str, ...] = ()


# The worker: answers.

ANSWER_DELAY = "codecflow_answer_delay_seconds"
"""Histogram of live streams: from the capture of a window's newest picture to the commit of its results."""

WINDOWS = MetricDefinition(
    "codecflow_windows",
    "counter",
    "Windows by outcome: answered; no-questions (none are configured); refused (no memory for the stream); skipped (no"
    " picture in the newest stride); behind (left out because the worker was behind live).",
    ("outcome",),
)
RESULTS = MetricDefinition("codecflow_results", "counter", "Results by outcome: answer or error.", ("outcome",))
RESTARTED = MetricDefinition(
    "codecflow_windows_restarted", "counter", "Answered windows without the context before a take-over."
)
FRAMES_MISSING = MetricDefinition(
    "codecflow_frames_missing", "counter", "Frames that windows should have held and did not."
)

# The worker: savings. Dashboards compute shares.

TOKENS = MetricDefinition(
    "codecflow_tokens",
    "counter",
    "Visual tokens of new frames: kept (encoded) or dropped; of cached ones: refreshed (computed again) or reused.",
    ("kind",),
)
FLOPS = MetricDefinition(
    "codecflow_flops",
    "counter",
    "Floating point operations: spent, and full (computing every window from scratch).",
    ("kind",),
)
PICTURES = MetricDefinition(
    "codecflow_pictures",
    "counter",
    "Coded pictures: published (read), decoded, lost (undecodable, or a half missing).",
    ("kind",),
)

# The worker: state.

BEHIND = MetricDefinition(
    "codecflow_behind_seconds", "gauge", "How late the stream that is furthest behind live is read."
)
STREAM_BEHIND = MetricDefinition(
    "codecflow_stream_behind_seconds",
    "gauge",
    f"How late each live stream is read; at most {MAX_STREAMS} streams.",
    ("stream",),
)
STREAMS = MetricDefinition("codecflow_streams", "gauge", "Streams that the worker follows at present.")
PARTITIONS = MetricDefinition("codecflow_partitions", "gauge", "Partitions that the worker owns.")
LAG = MetricDefinition("codecflow_lag_records", "gauge", "Records on owned partitions that have not been read.")
KV_BYTES = MetricDefinition("codecflow_kv_bytes", "gauge", "Keys and values that streams hold.")
WAITING_BYTES = MetricDefinition(
    "codecflow_waiting_bytes", "gauge", "What waits in memory: coded pictures, sampled frames.", ("kind",)
)
STAGE_BUSY = MetricDefinition(
    "codecflow_stage_busy_seconds",
    "counter",
    "Time at work of each stage, all its threads together.",
    ("stage",),
)
STAGE_QUEUE = MetricDefinition(
    "codecflow_stage_queue", "gauge", "What waits for each stage: records, pictures or windows.", ("stage",)
)
WORK = MetricDefinition(
    "codecflow_work_seconds",
    "counter",
    "Time that windows took, by kind of work (decode, keep, vit, llm, ...).",
    ("kind",),
)
REBALANCES = MetricDefinition("codecflow_rebalances", "counter", "Times that the group gave or took partitions.")
TRANSACTIONS = MetricDefinition(
    "codecflow_transactions", "counter", "Transactions: committed, or fenced (dropped: others own it).", ("outcome",)
)
SAMPLER_DEATHS = MetricDefinition(
    "codecflow_sampler_deaths", "counter", "Sampler processes that ended and were replaced."
)
DEAD_LETTERS = MetricDefinition("codecflow_dead_letters", "counter", "Records that could not be used.")

# The producer: camera.

CAMERA_UP = MetricDefinition(
    "codecflow_camera_up", "gauge", "1 if a picture was published in the last 30 s.", ("stream",)
)
CAMERA_LAST = MetricDefinition(
    "codecflow_camera_last_picture_timestamp_seconds", "gauge", "When the newest picture was published.", ("stream",)
)
CAMERA_PICTURES = MetricDefinition("codecflow_camera_pictures", "counter", "Pictures published.", ("stream",))
CAMERA_DROPPED = MetricDefinition(
    "codecflow_camera_dropped", "counter", "Pictures not published, by reason.", ("stream", "reason")
)
CAMERA_CORRECTED = MetricDefinition(
    "codecflow_camera_times_corrected", "counter", "Times corrected, by kind.", ("stream", "kind")
)
CAMERA_BYTES = MetricDefinition(
    "codecflow_camera_bytes", "counter", "Bytes published: packets, metadata (compressed).", ("stream", "kind")
)
CAMERA_RECONNECTS = MetricDefinition(
    "codecflow_camera_reconnects", "counter", "Times that the camera was lost and found.", ("stream",)
)

# The page: viewers.

PAGE_VIEWERS = MetricDefinition(
    "codecflow_page_viewers", "gauge", "Browsers that look: at live video, or at the past.", ("at",)
)
PAGE_STREAMS = MetricDefinition("codecflow_page_streams", "gauge", "Streams that the page knows.")
PAGE_VIDEO_BYTES = MetricDefinition(
    "codecflow_page_video_bytes", "gauge", "Video that waits for browsers that are slow."
)

# The recorder: evidence.

RECORDER_CHANGES = MetricDefinition(
    "codecflow_recorder_changes",
    "counter",
    "Changes of events by outcome: complete, or incomplete (pictures were gone, or could not be decoded).",
    ("outcome",),
)
RECORDER_EVENTS = MetricDefinition("codecflow_recorder_events", "gauge", "Events that the storage holds.")
RECORDER_BYTES = MetricDefinition("codecflow_recorder_bytes", "gauge", "Bytes of all files of events in the storage.")
RECORDER_REMOVED = MetricDefinition("codecflow_recorder_removed", "counter", "Events removed, by age or size.")
RECORDER_FAILING = MetricDefinition(
    "codecflow_recorder_failing_seconds", "gauge", "For how long the storage has taken no files; 0 when it does."
)

# The notifier: deliveries.

NOTIFY_DELIVERIES = MetricDefinition(
    "codecflow_notify_deliveries",
    "counter",
    "Changes of events by outcome: delivered, or refused (the receiver will never take it).",
    ("sink", "outcome"),
)
NOTIFY_FAILURES = MetricDefinition("codecflow_notify_failures", "counter", "Tries that failed.", ("sink",))
NOTIFY_FAILING = MetricDefinition(
    "codecflow_notify_failing_seconds",
    "gauge",
    "For how long a sink has not taken the change that is next for it; 0 when none waits.",
    ("sink",),
)


def answer_delay() -> Histogram:
    """A histogram of answer delays, of one worker."""
    return Histogram(
        ANSWER_DELAY,
        "From the capture of a window's newest picture to the commit of its results, of live streams.",
        registry=None,
        buckets=_DELAY_BUCKETS_S,
    )


def families(samples: Iterable[Sample]) -> Iterator[Metric]:
    """The samples in the form of Prometheus' client, one family for each metric."""
    by_metric: dict[MetricDefinition, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_metric[sample.metric].append(sample)
    for metric, found in by_metric.items():
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(metric.name, metric.help, labels=metric.labels)
        for sample in found:
            family.add_metric(sample.labels, sample.value)
        yield family
