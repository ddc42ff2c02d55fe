"""What a worker has done so far, for its status line and its last word."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from codecflow.messages import Result


@dataclass(slots=True)
class Summary:
    """Figures of one run, updated while it goes on.

    `windows` answered or, with no question asked, followed (`unasked`); `answers`: results emitted; `restarted`: answered
    windows that lack the context of what came before a take-over; `refused`: windows of streams for which there is no
    room. `streams`: what was counted of each, by reason. `lag`: records not read yet. Tokens and FLOPs as in a
    result; `seconds` by stage, of all streams together.
    """

    windows: int = 0
    answers: int = 0
    unasked: int = 0
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
    seconds: Counter[str] = field(default_factory=Counter)
    streams: dict[str, Counter[str]] = field(default_factory=dict)

    def counts(self, stream: str) -> Counter[str]:
        """The counter of one stream."""
        return self.streams.setdefault(stream, Counter())

    def add(self, results: list[Result]) -> None:
        """Take the results of one window in. Their tokens are the window's; FLOPs and seconds are shares of it."""
        self.answers += len(results)
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
        return sum(counts[reason] for counts in self.streams.values())

    def line(self) -> str:
        """One line for people."""
        text = (
            f"{len(self.streams)} streams, {self.windows} windows, {self.answers} answers, "
            f"tokens kept {_percent(self.tokens_kept, self.tokens_total)}, "
            f"KV refreshed {_percent(self.tokens_refreshed, self.tokens_refreshed + self.tokens_reused)}, "
            f"FLOPs {_percent(self.flops, self.flops_full)} of full, lag {self.lag}"
        )
        troubles = {
            "frames missing": self.frames_missing,
            "pictures lost": self.total("lost-pictures") + self.total("picture-missing"),
            "windows skipped": self.total("windows-skipped"),
            "windows refused": self.refused,
            "windows restarted": self.restarted,
            "unreadable records": self.dead_letters,
        }
        return text + "".join(f", {count} {what}" for what, count in troubles.items() if count)

    def document(self) -> dict[str, Any]:
        """For machines: figures and shares (of 1), and what was counted of each stream."""
        figures = {name: getattr(self, name) for name in self.__slots__ if isinstance(getattr(self, name), int)}
        held = self.tokens_refreshed + self.tokens_reused
        return {
            **figures,
            "tokens_kept_share": self.tokens_kept / self.tokens_total if self.tokens_total else None,
            "kv_refreshed_share": self.tokens_refreshed / held if held else None,
            "flops_share": self.flops / self.flops_full if self.flops_full else None,
            "windows_skipped": self.total("windows-skipped"),
            "pictures_lost": self.total("lost-pictures") + self.total("picture-missing"),
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "streams": {stream: {k: n for k, n in counts.items() if n} for stream, counts in self.streams.items()},
        }


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "- %"
