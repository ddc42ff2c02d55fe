"""A producer's figures as metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator

from codecflow.monitoring import metrics as m
from codecflow.monitoring.metrics import Sample

from .summary import Summary

UP_WITHIN_S = 30.0
"""A camera that has published no picture for this long is down."""


def is_up(summary: Summary) -> bool:
    """Whether a picture was published recently."""
    return time.time() - summary.last_picture_s < UP_WITHIN_S


def producer_samples(summary: Summary) -> Iterator[Sample]:
    """Metrics of `summary`, which another thread keeps updating."""
    stream = (summary.stream,)
    yield Sample(m.CAMERA_UP, is_up(summary), stream)
    yield Sample(m.CAMERA_LAST, summary.last_picture_s, stream)
    yield Sample(m.CAMERA_PICTURES, summary.pictures, stream)
    yield Sample(m.CAMERA_RECONNECTS, summary.reconnects, stream)
    yield Sample(m.CAMERA_BYTES, summary.packets_bytes, (*stream, "packets"))
    yield Sample(m.CAMERA_BYTES, summary.metadata_sent_bytes, (*stream, "metadata"))
    for reason, count in summary.dropped.copy().items():
        yield Sample(m.CAMERA_DROPPED, count, (*stream, reason))
    for kind, count in summary.corrected.copy().items():
        yield Sample(m.CAMERA_CORRECTED, count, (*stream, kind))
