"""Results of a run: answers and bytes as a summary for people and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from codecflow.messages import Result


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of the demo. Shares are fractions of 1; bytes of packets and metadata are those stored by the broker.

    `flops_share`: executed relative to keep `all` with refresh `all`. `jpeg_bytes`: the sampled frames as JPEG. `seconds`:
    from the first service's start to the last answer.
    """

    windows: int
    answers: int
    pictures: int
    tokens_kept_share: float
    kv_refreshed_share: float
    flops_share: float
    packets_bytes: int
    metadata_bytes: int
    source_bytes: int
    jpeg_frames: int
    jpeg_bytes: int
    frames_missing: int
    model: str
    trained: bool
    keep: str
    refresh: str
    seconds: float

    def document(self) -> dict[str, object]:
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}

    def lines(self) -> list[str]:
        """For people."""
        metadata = f"{self.metadata_bytes / self.packets_bytes:.1%} of it" if self.packets_bytes else "-"
        return [
            f"{self.windows} window{'s' * (self.windows != 1)}, {self.answers} answers, {self.pictures} pictures "
            f"in {self.seconds:.1f} s" + (f"; {self.frames_missing} frames missing" if self.frames_missing else ""),
            f"tokens kept         {self.tokens_kept_share:7.1%}   of the sampled frames' visual tokens (keep {self.keep})",
            f"KV refreshed        {self.kv_refreshed_share:7.1%}   of the windows' cached tokens (refresh {self.refresh})",
            f"FLOPs executed      {self.flops_share:7.1%}   of keep all with refresh all",
            f"published packets   {_size(self.packets_bytes):>9}   the source file has {_size(self.source_bytes)}",
            f"published metadata  {_size(self.metadata_bytes):>9}   {metadata}",
            f"frames as JPEG      {_size(self.jpeg_bytes):>9}   what the {self.jpeg_frames} sampled frames alone would take",
        ]


def tally(
    results: Sequence[Result],
    *,
    pictures: int,
    packets_bytes: int,
    metadata_bytes: int,
    source_bytes: int,
    jpeg: tuple[int, int],
    seconds: float,
) -> Figures:
    """Figures of the answers, at least one. Each question has its share of a window's FLOPs; tokens are the window's."""
    windows = {result.window: result for result in results}.values()
    newest = results[-1]
    cached = sum(result.tokens.refreshed + result.tokens.reused for result in windows)
    return Figures(
        windows=len(windows),
        answers=len(results),
        pictures=pictures,
        tokens_kept_share=_share(sum(r.tokens.kept for r in windows), sum(r.tokens.total for r in windows)),
        kv_refreshed_share=_share(sum(r.tokens.refreshed for r in windows), cached),
        flops_share=_share(sum(r.flops.vit + r.flops.llm for r in results), sum(r.flops.full for r in results)),
        packets_bytes=packets_bytes,
        metadata_bytes=metadata_bytes,
        source_bytes=source_bytes,
        jpeg_frames=jpeg[0],
        jpeg_bytes=jpeg[1],
        frames_missing=sum(result.frames.missing for result in windows),
        model=newest.model,
        trained=newest.trained,
        keep=newest.keep,
        refresh=newest.refresh,
        seconds=seconds,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
