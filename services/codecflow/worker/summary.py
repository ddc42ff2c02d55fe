"""Figures of a worker's run: totals, per stream and per stage, for the status line, JSON and metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Histogram

from codecflow.messages import Result
from codecflow.monitoring.metrics import answer_delay
from codecflow.monitoring.server import Health


@dataclass(slots=True)
class StreamFigures:
    """What one stream holds at present: bytes of keys and values, of waiting coded pictures, and of sampled frames; and how
    many seconds it is read behind live."""

    kv_bytes: int = 0
    queue_bytes: int = 0
    frame_bytes: int = 0
    behind_s: float | None = None


class BusyTime:
    """How long one thread has been busy, in seconds of wall clock and of CPU: a context manager, entered by that thread
    only. Work in progress counts towards the former. `since`: when the work in progress began, in monotonic seconds."""

    __slots__ = ("_cpu_at", "_wall_s", "cpu_s", "since")

    def __init__(self) -> None:
        self._wall_s = self.cpu_s = self._cpu_at = 0.0
        self.since: float | None = None

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        self._cpu_at = time.thread_time()
        self.since = time.monotonic()

    def end(self) -> None:
        assert self.since is not None
        took_s, self.since = time.monotonic() - self.since, None
        self._wall_s += took_s
        self.cpu_s += time.thread_time() - self._cpu_at

    def lap(self, every_s: float = 0.25) -> None:
        """Marks the thread as busy from one piece of work to the next: starts it, or updates the CPU time occasionally,
        since reading that clock is a system call."""
        if self.since is None:
            self.begin()
        elif time.monotonic() > self.since + every_s:
            self.end()
            self.begin()

    @property
    def wall_s(self) -> float:
        since = self.since
        return self._wall_s + (0.0 if since is None else time.monotonic() - since)


@dataclass(frozen=True, slots=True)
class StageFigures:
    """One stage of the pipeline so far. `busy_s`, `cpu_s`: wall clock and CPU time of work, per thread (for the sampler: per
    process). `queue`, `queue_bytes`: what waits for it at present."""

    busy_s: tuple[float, ...] = ()
    cpu_s: tuple[float, ...] = ()
    queue: int = 0
    queue_bytes: int = 0

    @staticmethod
    def of(times: Sequence[BusyTime], queue: int, queue_bytes: int) -> StageFigures:
        return StageFigures(tuple(one.wall_s for one in times), tuple(one.cpu_s for one in times), queue, queue_bytes)


@dataclass(slots=True)
class Summary:
    """Figures of one run, updated while it runs.

    `windows` answered or, with no questions configured, followed (`without_questions`); `answers`: results with an answer;
    `errors`: results with an error instead; `windows_reused`: those whose answers were all repeated; `refused`: windows of
    streams for which there is no room; `restarted`: answered windows that lack the context from before a take-over.
    `streams`: counters of each, by reason; `held`: what each holds now. `lag`: unread records; `behind_s`: how late the
    stream that is furthest behind live is read; `records_expired`: deleted by retention, unread. Tokens and FLOPs as in a
    result; `seconds` by stage, of all streams together. `error`: what ended the run, if it failed. `batches`: of the engine.
    `events`: emitted. `rebalances` of its group; `transactions` committed, and `fenced`: dropped because other workers own
    their partitions. `sampler_deaths`: sampler processes that ended and were replaced; `sampler_bytes`: memory that they
    hold, without what they share. `delay`: from the capture of a live window's newest picture to the commit of its results.
    `health`: for probes. `stages`: the pipeline's, in order; queues hold records for consumer and join, pictures for
    sampler, windows for engine and committer (including those in progress). The consumer's busy time is CPU time: the rest
    is spent waiting for records."""

    windows: int = 0
    answers: int = 0
    errors: int = 0
    without_questions: int = 0
    windows_reused: int = 0
    refused: int = 0
    restarted: int = 0
    frames_missing: int = 0
    tokens_kept: int = 0
    tokens_total: int = 0
    tokens_refreshed: int = 0
    tokens_reused: int = 0
    flops: int = 0
    flops_full: int = 0
    dead_letters: int = 0
    partitions: int = 0
    lag: int = 0
    records_expired: int = 0
    queue_bytes: int = 0
    frame_bytes: int = 0
    kv_bytes: int = 0
    batches: int = 0
    events: int = 0
    rebalances: int = 0
    transactions: int = 0
    fenced: int = 0
    sampler_deaths: int = 0
    sampler_bytes: int = 0
    behind_s: float = 0.0
    error: str | None = None
    stages: dict[str, StageFigures] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    streams: dict[str, Counter[str]] = field(default_factory=dict)
    held: dict[str, StreamFigures] = field(default_factory=dict)
    delay: Histogram = field(default_factory=answer_delay)
    health: Health = field(default_factory=Health)

    @property
    def empty(self) -> bool:
        return not (self.windows or self.streams)

    def counts(self, stream: str) -> Counter[str]:
        """The counters of one stream."""
        return self.streams.setdefault(stream, Counter())

    def committed(self, results: list[Result], now_s: float) -> None:
        """Results of one live window were committed, at wall clock `now_s`."""
        for result in results[:1]:
            if result.error is None and result.captured_at_ms:
                self.delay.observe(max(0.0, now_s - result.captured_at_ms / 1000))

    def add(self, results: list[Result]) -> None:
        """Add the results of one window. Tokens are the window's; FLOPs and seconds are shares of it."""
        for result in results:
            self.answers += result.error is None
            self.errors += result.error is not None
        self.windows_reused += bool(results) and all(result.reused_from is not None for result in results)
        for result in results[:1]:
            self.restarted += result.restarted
            self.frames_missing += result.frames.missing
            self.tokens_kept += result.tokens.kept
            self.tokens_total += result.tokens.total
            self.tokens_refreshed += result.tokens.refreshed
            self.tokens_reused += result.tokens.reused
        for result in results:
            self.flops += result.flops.vit + result.flops.llm
            self.flops_full += result.flops.full
            self.seconds.update(result.seconds)

    def total(self, reason: str) -> int:
        return sum(counts[reason] for counts in list(self.streams.values()))

    def set_held(self, held: dict[str, StreamFigures]) -> None:
        """Set what each stream holds now."""
        self.held = held
        self.queue_bytes = sum(one.queue_bytes for one in held.values())
        self.frame_bytes = sum(one.frame_bytes for one in held.values())
        self.kv_bytes = sum(one.kv_bytes for one in held.values())
        self.behind_s = max((one.behind_s for one in held.values() if one.behind_s is not None), default=0.0)

    def line(self) -> str:
        """One line for people."""
        text = (
            f"{len(self.streams)} stream{'s' * (len(self.streams) != 1)}, {self.windows} windows, {self.answers} answers, "
            f"tokens kept {_percent(self.tokens_kept, self.tokens_total)}, "
            f"KV refreshed {_percent(self.tokens_refreshed, self.tokens_refreshed + self.tokens_reused)}, "
            f"windows reused {_percent(self.windows_reused, self.windows)}, "
            f"FLOPs {_percent(self.flops, self.flops_full)} of full, "
            f"pictures decoded {_percent(self.total('pictures-decoded'), self.total('pictures'))}"
        )
        waiting = self.queue_bytes + self.frame_bytes
        if self.kv_bytes or waiting:
            text += f", holds {self.kv_bytes / 2**20:.0f} MiB of KV, {waiting / 2**20:.0f} MiB waiting"
        text += f", lag {self.lag} records"
        if self.lag and self.behind_s > 1:
            text += f" ({self.behind_s:.0f} s behind live)"
        problems = {
            "error results": self.errors,
            "frames missing": self.frames_missing,
            "pictures lost": self.pictures_lost,
            "windows skipped": self.total("windows-skipped"),
            "windows skipped behind live": self.total("windows-behind"),
            "windows refused": self.refused,
            "windows restarted": self.restarted,
            "unreadable records": self.dead_letters,
            "sampler processes replaced": self.sampler_deaths,
            "records deleted by retention": self.records_expired,
        }
        return text + "".join(f", {count} {what}" for what, count in problems.items() if count)

    def document(self) -> dict[str, Any]:
        """For machines: figures and shares (of 1), and the counters and memory of each stream."""
        figures = {name: getattr(self, name) for name in self.__slots__ if isinstance(getattr(self, name), int)}
        held = self.tokens_refreshed + self.tokens_reused
        return {
            **figures,
            "error": self.error,
            "behind_s": round(self.behind_s, 3),
            "tokens_kept_share": self.tokens_kept / self.tokens_total if self.tokens_total else None,
            "kv_refreshed_share": self.tokens_refreshed / held if held else None,
            "flops_share": self.flops / self.flops_full if self.flops_full else None,
            "windows_skipped": self.total("windows-skipped"),
            "windows_behind": self.total("windows-behind"),
            "pictures": self.total("pictures"),
            "pictures_decoded": self.total("pictures-decoded"),
            "pictures_lost": self.pictures_lost,
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "stages": {
                name: {
                    "busy_s": round(sum(stage.busy_s), 3),
                    "cpu_s": round(sum(stage.cpu_s), 3),
                    "threads": len(stage.busy_s),
                    "queue": stage.queue,
                    "queue_bytes": stage.queue_bytes,
                }
                for name, stage in self.stages.items()
            },
            "streams": {stream: {k: n for k, n in counts.items() if n} for stream, counts in self.streams.items()},
            "held": {
                stream: {
                    "kv_bytes": one.kv_bytes,
                    "queue_bytes": one.queue_bytes,
                    "frame_bytes": one.frame_bytes,
                    "behind_s": one.behind_s,
                }
                for stream, one in self.held.items()
            },
        }

    @property
    def pictures_lost(self) -> int:
        """Coded pictures that could not be decoded, or whose packet or metadata never came."""
        return sum(self.total(reason) for reason in ("lost-pictures", "picture-missing", "dropped-unpaired"))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "- %"
