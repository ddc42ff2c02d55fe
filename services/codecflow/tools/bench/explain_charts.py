"""The figures of `codecflow explain`, with matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon, Rectangle

from codecflow.keep import KeepConfig
from codecflow.keep.zones import view_of
from codecflow.messages import UNCHANGED, Signal
from codecflow.tools.report.charts import save

from .explain import Background, Example, Snapshot
from .sampling import Gop
from .savings import FrameRecord, WindowRecord

KEPT, COMPARED, CERTIFIED, HIDDEN = "#00798c", "#edae49", "#b8c4cc", "#3a3a3a"
ZONE = "#ffd400"
_LABEL = {"facecolor": ZONE, "edgecolor": "none", "pad": 2}
REFRESHED, REUSED, EVICTED = "#d1495b", "#7fb8c4", "#d9d9d9"


def draw_frame(example: Example, path: Path) -> None:
    """One frame, its codec signal, and the kept tokens: four panels."""
    height, width = example.picture.shape[:2]
    gap, above, below = 0.25, 0.4, 1.0 if example.decision.hidden.any() else 0.8  # inches
    panel_height = min(6.2, 6.2 * height / width)
    panel_width = max(panel_height * width / height, 4.0)
    figure_width, figure_height = 2 * panel_width + 3 * gap, 2 * (above + panel_height + below)
    figure = Figure(figsize=(figure_width, figure_height))

    def place(row: int, column: int, down: float, tall: float, narrower: float = 0.0) -> Any:
        """Axes `tall` inches high, `down` inches below the top of a panel."""
        x = gap + column * (panel_width + gap) + narrower
        y = figure_height - row * (above + panel_height + below) - above - down - tall
        wide = panel_width - 2 * narrower
        return figure.add_axes((x / figure_width, y / figure_height, wide / figure_width, tall / figure_height))

    seen, motion, change, mask = (place(row, column, 0, panel_height) for row in (0, 1) for column in (0, 1))
    grey = example.picture.mean(axis=2)
    seen.imshow(example.picture)
    for zone in example.zones:
        corners = np.array(zone.polygon) * (width, height)
        seen.add_patch(Polygon(corners, fill=False, edgecolor=ZONE, linewidth=2))
        seen.text(*corners[corners.sum(1).argmin()], f" {zone.name}: {zone.use}", va="top", color="black", bbox=_LABEL)
    seen.set_title(f"1  The camera's picture at {example.time_s:g} s", loc="left")
    vectors = example.signal.motion
    if vectors is None:
        vectors = np.zeros_like(example.signal.change)
        motion.text(width / 2, height / 2, "no vectors here", ha="center", color="white", size=14)
    bars = [place(row, column, panel_height + 0.1, 0.13, narrower=1.0) for row, column in ((0, 1), (1, 0))]
    _heat(motion, bars[0], grey, *example.blocks(vectors / 4), "largest motion vector over a 16x16 block, in pixels")
    motion.set_title("2  Codec signal: motion since the signal picture before", loc="left")
    _heat(
        change,
        bars[1],
        grey,
        *example.blocks(example.signal.change / 8),
        "bound of how far the mean of 8x8 samples in a 16x16 block has changed, in grey levels",
    )
    change.set_title(f"3  Codec signal: change since the reference picture{_conditions(example.signal)}", loc="left")
    _mask(mask, example)
    for axis in (seen, motion, change, mask):
        axis.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    save(figure, path)


def _conditions(signal: Signal) -> str:
    """The signal's properties of the whole picture."""
    exposure = signal.exposure
    words = f"; noise {signal.noise / 8:.2g}"
    if exposure != UNCHANGED:
        words += f", exposure x {exposure.gain / exposure.GAIN_UNIT:.2f} {exposure.offset / exposure.OFFSET_UNIT:+.1f}"
    return words


def _heat(
    axis: Any,
    bar: Any,
    grey: npt.NDArray[Any],
    values: npt.NDArray[Any],
    extent: tuple[int, int, int, int],
    label: str,
) -> None:
    """Draws blocks with a value of 0.5 or more, coloured on a logarithmic scale, over the grey picture."""
    axis.imshow(grey * 0.55, cmap="gray", vmin=0, vmax=255)
    image = axis.imshow(
        np.ma.masked_less(values, 0.5),
        cmap="YlOrRd",
        norm=LogNorm(0.5, 32),
        alpha=0.8,
        extent=extent,
        interpolation="nearest",
    )
    scale = bar.figure.colorbar(image, cax=bar, orientation="horizontal", label=label, extend="max")
    ticks = [0.5, 1, 2, 4, 8, 16, 32]
    scale.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
    scale.minorticks_off()


def _mask(axis: Any, example: Example) -> None:
    """Shows kept tokens unchanged, dropped ones darkened and coloured by the reason."""
    decision = example.decision
    kinds = [
        ("kept: encoded by the ViT", decision.keep, KEPT),
        ("dropped: pixels compared, alike", decision.compared & ~decision.keep, COMPARED),
        ("dropped: certified by the codec signal, not looked at", decision.certified, CERTIFIED),
    ]
    if decision.hidden.any():
        kinds.append(("never encoded: hidden by zones", decision.hidden, HIDDEN))
    picture = view_of(example.zones, example.grid).blanked(example.picture).astype(float) / 255
    for _, members, colour in kinds[1:]:
        for x0, y0, x1, y1 in example.grid.boxes[members].tolist():
            picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * 0.3 + np.array(to_rgb(colour)) * 0.3
    axis.imshow(picture)
    for _, members, colour in kinds:
        kept = colour == KEPT
        for x0, y0, x1, y1 in example.grid.boxes[members].tolist():
            box = Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor=colour,
                linewidth=2 if kept else 0.4,
                zorder=3 if kept else 2,
            )
            axis.add_patch(box)
    axis.set_title(f"4  Keep mask: {decision.keep.sum()} of {decision.keep.size} tokens are encoded", loc="left")
    handles = [Patch(facecolor=c, edgecolor="black", linewidth=0.3, label=f"{int(m.sum())} {n}") for n, m, c in kinds]
    axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), frameon=False, fontsize=9)


def draw_window(windows: Sequence[WindowRecord], refresh: str, path: Path) -> None:
    """The KV of consecutive windows, one bar per frame, coloured by what happens to its tokens."""
    figure = Figure(figsize=(12, 2.1 * len(windows) + 1.2), layout="constrained")
    axes = figure.subplots(len(windows), sharex=True, sharey=True, squeeze=False)[:, 0]
    step = windows[-1].times_s[1] - windows[-1].times_s[0] if len(windows[-1].times_s) > 1 else 1.0
    for axis, record in zip(axes, windows, strict=True):
        bars = [(record.evicted, EVICTED), (record.reused, REUSED), (record.refreshed, REFRESHED), (record.new, KEPT)]
        for tokens, colour in bars:
            edge = "#8a8a8a" if colour == EVICTED else "none"
            axis.bar(
                record.times_s,
                tokens,
                width=step * 0.9,
                align="edge",
                color=colour,
                edgecolor=edge,
                linewidth=0.4,
                hatch="////" if colour == EVICTED else None,
            )
        axis.axvspan(record.start_s, record.end_s, color="#00798c", alpha=0.05, zorder=0)
        axis.axvline(record.end_s, color="black", linewidth=1)
        axis.set_title(
            f"window from {record.start_s:g} to {record.end_s:g} s: {record.computed} tokens computed, "
            f"{sum(record.reused) + record.background} reused; {record.full} if nothing were dropped or reused",
            loc="left",
            fontsize=10,
        )
        axis.set_ylabel("tokens")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(
        "presentation time, s: one bar per sampled frame, the black line is when the window is answered"
    )
    names = [("evicted: left the window", EVICTED), ("reused: keys and values as they are", REUSED)]
    names += [("refreshed: computed again in context", REFRESHED), ("new: encoded and computed now", KEPT)]
    figure.legend(
        handles=[Patch(facecolor=colour, label=name) for name, colour in names],
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize=9,
        title=f"What the language model's KV cache holds of a stream, refresh policy “{refresh}”",
        title_fontsize=12,
    )
    save(figure, path)


def draw_background(
    seen: Snapshot, behind: Background, windows: Sequence[WindowRecord], coverage: str, path: Path
) -> None:
    """Where the tokens of one window come from, and what each window computes with anchors and with a background."""
    height, width = seen.picture.shape[:2]
    wide, above, below = 6.6, 0.45, 0.75  # inches
    tall = min(6.2, wide * height / width)
    inches = above + tall + below
    figure = Figure(figsize=(13, inches))
    left = figure.add_axes((0.01, below / inches, wide / 13, tall / inches))
    right = figure.add_axes((0.59, below / inches, 0.4, tall / inches))
    picture = seen.picture.astype(float) / 255
    old = seen.newest < seen.start_s
    for x0, y0, x1, y1 in seen.grid.boxes[old].tolist():
        picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * 0.45 + np.array(to_rgb(REUSED)) * 0.45
    left.imshow(picture)
    for (x0, y0, x1, y1), newer in zip(seen.grid.boxes.tolist(), ~old, strict=True):
        colour, line, above = (KEPT, 1.6, 3) if newer else ("white", 0.3, 2)
        left.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=line, zorder=above)
        )
    left.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    left.set_title(f"The newest token of each cell, window from {seen.start_s:g} to {seen.end_s:g} s", loc="left")
    oldest = seen.end_s - float(seen.newest[old].min(initial=seen.end_s))
    handles = [
        Patch(facecolor=KEPT, label=f"{int((~old).sum())} cells: kept in a frame of the window"),
        Patch(facecolor=REUSED, label=f"{int(old.sum())} cells: background, kept up to {oldest:.0f} s ago"),
    ]
    left.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), frameon=False, fontsize=9)
    ends = [record.end_s for record in windows]
    stride = ends[0] if len(ends) < 2 else ends[1] - ends[0]
    anchored = [sum(record.new) for record in windows]
    kept = [behind.kept[record.window] for record in windows]
    right.bar(np.array(ends) - 0.21 * stride, anchored, 0.4 * stride, color=REFRESHED, label=f"coverage {coverage}")
    right.bar(np.array(ends) + 0.21 * stride, kept, 0.4 * stride, color=KEPT, label="coverage background")
    again = [end for end, held in zip(ends, behind.holding.windows, strict=False) if held.reused]
    right.plot(again, [0] * len(again), "v", color="black", markersize=7, label="answer repeated", clip_on=False)
    right.set(xlabel="end of the window, s", ylabel="new tokens")
    right.set_title("New tokens of each window", loc="left")
    right.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=9)
    save(figure, path)


def draw_share(records: Sequence[FrameRecord], config: KeepConfig, gops: Sequence[Gop], path: Path) -> None:
    """Shares of each frame's tokens over time, by decision, under a strip that shows which groups of pictures a worker does
    not decode."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    axis = figure.subplots()
    times = [record.time_s for record in records]
    shares = [
        [100 * part / r.total for r in records for part in [getattr(r, name)]]
        for name in ("kept", "compared", "certified")
    ]
    labels = ["kept: encoded", "dropped: pixels compared", "dropped: certified by the codec signal alone"]
    axis.stackplot(times, shares, colors=[KEPT, COMPARED, CERTIFIED], labels=labels, step="post", linewidth=0)
    motion = [100 * record.motion_kept / record.total for record in records]
    axis.step(times, motion, where="post", color=REFRESHED, linewidth=1.3, label="kept by the policy motion")
    kept = 100 * sum(record.kept for record in records) / sum(record.total for record in records)
    axis.set(
        xlabel="presentation time, s", ylabel="tokens of a frame, %", ylim=(0, 100), xlim=(times[0], times[-1] or 1)
    )
    skipped = [(gop.start_s, gop.end_s - gop.start_s) for gop in gops if not gop.decoded]
    label = f"not decoded: {len(skipped)} of {len(gops)} groups of pictures"
    axis.broken_barh(skipped, (101, 4), color="black", alpha=0.55, label=label, clip_on=False)
    axis.set_title(
        f"Policy {config.policy}, {float(config.fps):g} frames/s: {kept:.0f} % of all tokens are encoded, coverage included",
        loc="left",
        pad=16,
    )
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=5, frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)
