"""Clips of events, for download."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from codecflow.kafka.settings import KafkaSettings
from codecflow.subscriber.evidence import evidence_name, find_event, span, write_evidence
from codecflow.subscriber.recording import Recording


def cut_event(
    settings: KafkaSettings, stream: str, event: str, stopping: Callable[[], bool]
) -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """The file with an event's clip, and its temporary folder, which the caller removes. Raises as `find_event` and
    `write_evidence`."""
    newest = find_event(settings, stream, event)[-1]
    folder = tempfile.TemporaryDirectory(prefix="codecflow-")
    try:
        begin, end = span(newest)
        name = evidence_name(newest).replace("/", "-")
        with Recording(settings, stream, stopping) as recording:
            clip = write_evidence(recording, begin, end, Path(folder.name) / f"{name}.mp4")
        files = [file.path for file in clip.files]
        if len(files) == 1:
            return folder, files[0]
        bundle = Path(folder.name) / f"{name}.zip"
        with zipfile.ZipFile(bundle, "w") as target:  # stored: video does not compress further
            for file in files:
                target.write(file, file.name)
        return folder, bundle
    except BaseException:
        folder.cleanup()
        raise
