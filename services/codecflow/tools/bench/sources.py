"""What a producer publishes of files: pictures, drops and corrections, metadata, and processing time. No broker."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codecflow.codec.opening import SourceOptions
from codecflow.codec.signal import DEFAULT_INTERVAL
from codecflow.codec.source import Source
from codecflow.errors import ConfigError, SourceError
from codecflow.kafka.records import Record
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import PictureMetadata, decode_metadata
from codecflow.producer.epoch import EpochPublisher
from codecflow.producer.summary import Summary
from codecflow.tools.report.table import display_names, print_json, print_table, progress

from .producer import metadata_bytes


class _Kept:
    """A sender that stores its records, or only counts them."""

    def __init__(self, keep: bool) -> None:
        self.records: list[Record] = []
        self._keep = keep

    def send(self, record: Record) -> None:
        if self._keep:
            self.records.append(record)

    def flush(self) -> None:
        pass


@dataclass(slots=True)
class Published:
    """What was published of some files. `seconds`: of video; `took_s`: of processor time; `shares`: for each file, metadata
    in real time relative to its coded pictures. `failed`: why a file could not be published, by file."""

    files: int = 0
    codecs: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    seconds: float = 0.0
    took_s: float = 0.0
    coded_bytes: int = 0
    metadata_bytes: int = 0
    not_shown: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    corrected: Counter[str] = field(default_factory=Counter)
    shares: list[float] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: Published) -> None:
        self.files += other.files
        self.pictures += other.pictures
        self.seconds += other.seconds
        self.took_s += other.took_s
        self.coded_bytes += other.coded_bytes
        self.metadata_bytes += other.metadata_bytes
        self.not_shown += other.not_shown
        for mine, theirs in (
            (self.codecs, other.codecs),
            (self.dropped, other.dropped),
            (self.corrected, other.corrected),
        ):
            mine.update(theirs)
        self.shares += other.shares
        self.failed |= other.failed

    @property
    def share(self) -> float:
        """Size of the metadata relative to the coded pictures."""
        return self.metadata_bytes / self.coded_bytes if self.coded_bytes else 0.0


def run(clips: Sequence[Path], *, folders: bool) -> None:
    """Prints a row per file, or per folder, then one JSON line. Raises ConfigError when there is no file."""
    if not clips:
        raise ConfigError("no clip: name at least one video file")
    names = [clip.parent.name for clip in clips] if folders else display_names(clips)
    rows: dict[str, Published] = {}
    total = Published()
    with progress("files") as bar:
        task = bar.add_task("files", total=len(clips))
        for name, clip in zip(names, clips, strict=True):
            one = published(clip)
            rows.setdefault(name, Published()).add(one)
            total.add(one)
            bar.advance(task)
    print_table(
        f"What is published of {len(clips)} files",
        ["", "files", "codec", "pictures", "seconds", "dropped", "corrected", "metadata", "CPU s"],
        [_row(name, row) for name, row in [*rows.items(), *([("all", total)] if len(rows) > 1 else [])]],
        note="metadata: batched and compressed as in real time, of the bytes of the coded pictures"
        + (", over all and of the file with the most" if folders else "")
        + "; CPU s: one core, decoding included."
        + "".join(f" {error}." for error in total.failed.values()),
    )
    print_json(
        {
            "files": total.files,
            "failed": total.failed,
            "pictures": total.pictures,
            "seconds": round(total.seconds, 1),
            "dropped": total.dropped,
            "corrected": total.corrected,
            "not_shown": total.not_shown,
            "metadata_share": round(total.share, 4),
            "metadata_share_above_8_percent": sum(share > 0.08 for share in total.shares),
            "cpu_s": round(total.took_s, 2),
        }
    )


def published(clip: Path) -> Published:
    """What a producer publishes of `clip`, and its counters."""
    began = time.process_time()
    summary = Summary("bench", str(clip))
    packets, metadata = _Kept(keep=False), _Kept(keep=True)
    settings = KafkaSettings("bench:9092")
    one = Published(files=1)
    try:
        with Source(str(clip), SourceOptions()) as source:
            one.codecs[source.codec] += 1
            publisher = EpochPublisher(
                "bench", 0, DEFAULT_INTERVAL, (packets, metadata), settings.topics, 1 << 30, summary
            )
            for picture in source.pictures("bench", 0):
                publisher.push(picture)
            publisher.finish()
            one.dropped = summary.dropped + source.dropped
            one.corrected = source.corrected
            if not summary.pictures:
                raise source.without_pictures()
    except SourceError as error:
        one.failed[str(clip)] = str(error)
    one.took_s = time.process_time() - began
    one.pictures, one.seconds, one.not_shown = summary.pictures, summary.seconds, summary.not_shown
    messages = [decode_metadata(record.key, record.value) for record in metadata.records]
    documents = [message for message in messages if isinstance(message, PictureMetadata)]
    if documents:
        one.coded_bytes = summary.packets_bytes
        one.metadata_bytes = metadata_bytes(documents, real_time=True)
        one.shares.append(one.share)
    return one


def _row(name: str, row: Published) -> list[str]:
    share = f"{100 * row.share:.1f} %" + (f" (max {100 * max(row.shares):.1f})" if len(row.shares) > 1 else "")
    return [
        name,
        str(row.files),
        ", ".join(sorted(row.codecs)) or "-",
        str(row.pictures),
        f"{row.seconds:.1f}",
        _counts(row.dropped + Counter({"unreadable files": len(row.failed)})),
        _counts(row.corrected),
        share,
        f"{row.took_s:.2f}",
    ]


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "0"
