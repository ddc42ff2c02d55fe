"""`codecflow bench policies`: what each keep policy keeps of a real clip, and how stale dropped tokens become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codecflow.errors import ConfigError
from codecflow.grid import TokenGrid
from codecflow.keep import POLICY_NAMES, Coverage, KeepConfig, KeepDecision, KeepState, parse_coverage
from codecflow.keep.zones import view_of
from codecflow.messages import BLOCK, Zone
from codecflow.tools.report.charts import COLOURS, check_possible, plain_text, save
from codecflow.tools.report.table import display_names, print_json, print_table, progress
from codecflow.worker.settings import DEFAULT_REUSE_S, reuse_slots
from codecflow.worker.window_plan import WindowPlan

from .holding import Holding
from .sampling import Decoding, Published, SampledFrame, decoded_frames, decoding, keep_state, published
from .staleness import STALE, LastKept, model_picture

_DECODED = (*POLICY_NAMES, "replenish-background")
"""Policies for which decoding is measured: those that workers offer, with anchors every period and with a background."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A keep policy with its coverage, under comparison. `sampled_only`: motion from the vectors of the sampled picture
    alone, ignoring pictures between and before; workers do not offer this policy, because its tokens go stale."""

    name: str
    config: KeepConfig
    sampled_only: bool = False

    @property
    def coverage(self) -> str:
        period = f"{float(self.config.period_s):g} s"
        if self.config.background:
            return f"background, anchor every {period}"
        return f"anchor every {period}" if self.config.coverage == "anchor" else f"rolling in {period}"

    def begin(self, grid: TokenGrid, hidden: npt.NDArray[np.bool_]) -> KeepState | SampledVectors:
        return (SampledVectors if self.sampled_only else KeepState)(grid, self.config, hidden)


class SampledVectors:
    """Keeps the tokens that a vector or an intra block of the sampled picture itself touches."""

    def __init__(self, grid: TokenGrid, config: KeepConfig, hidden: npt.NDArray[np.bool_]) -> None:
        self._grid, self._tau, self._hidden = grid, config.tau_px * 4, hidden
        self._coverage = Coverage(config, grid.tokens)

    def decide(self, frame: SampledFrame) -> KeepDecision:
        forced = self._coverage.forced(frame.slot, frame.alone)
        self._coverage.advance(frame.slot, frame.alone)
        keep, signal = forced.copy(), frame.own
        if signal.motion is None or signal.intra is None:
            keep[:] = True
        else:
            moving = (signal.motion >= self._tau) | (signal.intra > 0)
            for token, (x0, y0, x1, y1) in enumerate(self._grid.boxes.tolist()):
                keep[token] |= moving[y0 // BLOCK : -(-y1 // BLOCK), x0 // BLOCK : -(-x1 // BLOCK)].any()
        nothing = np.zeros_like(keep)
        return KeepDecision(keep & ~self._hidden, nothing, nothing, forced & ~self._hidden, self._hidden)


def compared(config: KeepConfig, window_s: Fraction) -> list[Policy]:
    """The policies, each with an anchor every `config.period_s`, then the default policy with the other kinds of
    coverage."""
    window = replace(config, period_s=window_s, slack_s=Fraction(0))
    return [
        Policy("all", replace(config, policy="all")),
        Policy("motion", replace(config, policy="motion")),
        Policy("motion-sampled", replace(config, policy="motion"), sampled_only=True),
        Policy("replenish", config),
        Policy("replenish-mean", replace(config, detail_threshold=255.0)),
        Policy("replenish-rolling", replace(config, coverage="rolling")),
        Policy("replenish-once", window),
        Policy("replenish-rolling-once", replace(window, coverage="rolling")),
        Policy("replenish-background", _background(config)),
    ]


def _background(config: KeepConfig) -> KeepConfig:
    kind, period_s, slack_s = parse_coverage("background", config.period_s, config.fps)
    return replace(config, coverage=kind, period_s=period_s, slack_s=slack_s)


@dataclass(slots=True)
class Tally:
    """Totals of one policy on one clip, in tokens. `holding`: what its windows hold. `shares`: kept share of each frame's
    tokens, `times`: the frames' times."""

    holding: Holding
    total: int = 0
    kept: int = 0
    forced: int = 0
    stale: int = 0
    exposed: int = 0
    certified: int = 0
    compared: int = 0
    decoding: Decoding | None = None
    times: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def add(self, time_s: float, decision: KeepDecision, stale: int, exposed: int) -> None:
        self.total += int((~decision.hidden).sum())
        self.kept += int(decision.keep.sum())
        self.forced += int(decision.forced.sum())
        self.certified += int(decision.certified.sum())
        self.compared += int(decision.compared.sum())
        self.stale += stale
        self.exposed += exposed
        self.times.append(time_s)
        self.shares.append(float(decision.keep[~decision.hidden].mean()))

    def figures(self) -> dict[str, float | None]:
        """Percentages. `pictures`, `decoded_pictures`: how many a worker receives and decodes, `worker_ms_per_s`:
        milliseconds of its processor time per second of video, `gops_decoded`: groups of pictures in which it decodes a
        sampled frame; None where it is not measured. `kept`, `certified` and `compared`: of the tokens that
        coverage did not force. `kept_total`: of all tokens, including forced ones. `peak`: of the fullest frame after the
        first. `stale`: of the dropped tokens; `exposed`: those with an equally large change that is due only to the camera's
        exposure. `held`: tokens that a window holds, mean, and of them `background`. `reused`: share of the windows whose
        answers are repeated."""

        def percent(part: int, whole: int) -> float:
            return round(100 * part / whole, 3) if whole else 0.0

        free, one, windows = self.total - self.forced, self.decoding, self.holding.windows
        return {
            "kept": percent(self.kept - self.forced, free) if free else 100.0,
            "kept_total": percent(self.kept, self.total),
            "peak": round(100 * max(self.shares[1:], default=1.0), 3),
            "stale": percent(self.stale, self.total - self.kept),
            "stale_tokens": self.stale,
            "exposed": percent(self.exposed, self.total - self.kept),
            "windows": len(windows),
            "held": round(sum(w.held for w in windows) / max(1, len(windows)), 1),
            "background": round(sum(w.background for w in windows) / max(1, len(windows)), 1),
            "reused": percent(sum(w.reused for w in windows), len(windows)),
            "certified": percent(self.certified, free),
            "compared": percent(self.compared, free),
            "pictures": None if one is None else one.published,
            "decoded_pictures": None if one is None else one.decoded,
            "decoded": None if one is None else percent(one.decoded, one.published),
            "gops_decoded": None if one is None else percent(one.gops_decoded, len(one.gops)),
            "worker_ms_per_s": None if one is None else round(1000 * one.seconds / max(self.times[-1], 1), 1),
        }


@dataclass(frozen=True, slots=True)
class Interim:
    """Results up to the frame at `time_s`: a tally for each policy by name, and the stream's noise in grey levels, the
    median over its signals."""

    time_s: float
    tallies: dict[str, Tally]
    noise: float


def compare(
    frames: Iterator[SampledFrame],
    side: int,
    tokens: int,
    policies: Sequence[Policy],
    plan: WindowPlan,
    zones: Sequence[Zone] = (),
) -> Iterator[Interim]:
    """Runs all policies over the frames of a clip in parallel; yields the results so far after each frame.

    `side`: of the model's square input, in pixels; `tokens`: along it."""
    slots = reuse_slots(DEFAULT_REUSE_S, plan.fps)
    tallies = {policy.name: Tally(Holding(plan, policy.config.background, slots)) for policy in policies}
    noise: list[float] = []
    shape: tuple[tuple[int, int], int] | None = None
    for frame in frames:
        picture = frame.picture
        if shape != (picture.size, picture.orientation):
            shape = (picture.size, picture.orientation)
            upright = TokenGrid.regular(tokens, tokens, *picture.size)
            grid, hidden = upright.oriented(picture.orientation), view_of(zones, upright).hidden
            if hidden.all():
                raise ConfigError("--zones: they hide the whole picture; make an `only` zone larger, or remove one")
            states = {policy.name: policy.begin(grid, hidden) for policy in policies}
            seen = {policy.name: LastKept(tokens, side) for policy in policies}
        pixels = model_picture(picture, side)
        for policy in policies:
            state = states[policy.name]
            decision = state.decide(frame) if isinstance(state, SampledVectors) else frame.decide(state)
            tallies[policy.name].holding.add(frame.slot, decision.keep)
            tallies[policy.name].add(frame.time_s, decision, *seen[policy.name].stale(pixels, decision.keep | hidden))
        noise.append(frame.signal.noise / 8)
        yield Interim(frame.time_s, tallies, float(np.median(noise)))


def run(
    clips: Sequence[Path],
    config: KeepConfig,
    *,
    size: int,
    token: int,
    plan: WindowPlan,
    seconds: float | None = None,
    plot: Path | None = None,
    zones: Sequence[Zone] = (),
) -> None:
    """Compares the policies on each clip: a table per clip, then one JSON line {clip: {policy: figures}}, in percent.

    `plan`: windows, for what they hold and for coverage once per window. `size`, `token`: side of the model's square
    input and of a token in it, in pixels. `seconds`: maximum of each clip. `plot`: file of a chart. `zones`: of every clip;
    hidden tokens are not counted. Raises ConfigError and SourceError."""
    if token < 1 or size < token or size % token:
        raise ConfigError(f"--size {size} with --token {token}: the size must be a whole multiple of the token")
    if plot is not None:
        check_possible(plot.parent)
    tokens = size // token
    policies = compared(config, plan.time(plan.window_slots))
    by_clip: dict[str, dict[str, Tally]] = {}
    for name, clip in zip(display_names(clips), clips, strict=True):
        by_clip[name] = _run_clip(name, clip, config, size, tokens, policies, plan, seconds, zones)
    if plot is not None:
        keep_share_chart(by_clip, plot)
    print_json({name: {p: tally.figures() for p, tally in tallies.items()} for name, tallies in by_clip.items()})


def _run_clip(
    name: str,
    clip: Path,
    config: KeepConfig,
    side: int,
    tokens: int,
    policies: Sequence[Policy],
    plan: WindowPlan,
    seconds: float | None,
    zones: Sequence[Zone],
) -> dict[str, Tally]:
    with progress() as bar:
        task = bar.add_task(name, total=None)
        pictures = list(published(clip, config.fps, seconds))
        for so_far in compare(decoded_frames(pictures, config.fps), side, tokens, policies, plan, zones):
            bar.update(task, completed=so_far.time_s)
        for tally in so_far.tallies.values():
            tally.holding.end()
        _decode(pictures, tokens, policies, so_far.tallies, zones)
    tallies = so_far.tallies
    figures = [(policy, tallies[policy.name].figures()) for policy in policies]
    columns = ("kept", "kept_total", "peak", "certified", "compared", "decoded", "gops_decoded")
    print_table(
        f"{name}: {len(tallies['all'].times)} frames at {float(config.fps):g}/s, {tokens}x{tokens} tokens, noise "
        f"{so_far.noise:.2g} grey levels",
        [
            "policy",
            "coverage",
            "kept %",
            "with forced %",
            "fullest %",
            "certified %",
            "compared %",
            "decoded %",
            "GOPs %",
            "ms/s",
            "stale %",
            "exposure %",
            "held",
            "background",
            "reused %",
        ],
        [
            [
                policy.name,
                policy.coverage,
                *("" if row[key] is None else f"{row[key]:.1f}" for key in columns),
                "" if row["worker_ms_per_s"] is None else f"{row['worker_ms_per_s']:.1f}",
                f"{row['stale']:.2g}",
                f"{row['exposed']:.2g}",
                f"{row['held']:.0f}",
                f"{row['background']:.0f}",
                f"{row['reused']:.0f}",
            ]
            for policy, row in figures
        ],
        note="kept, certified, compared: of the tokens that coverage does not force; decoded: of the pictures, by a worker, "
        "GOPs: those in which a sampled frame is decoded, of all groups from a keyframe to the next, "
        "ms/s: its processor time for that and the masks, for each second of video; "
        f"stale: dropped tokens of which 7x7 pixels changed by more than {STALE:g} grey levels on average since last kept; "
        "exposure: those where that is only the camera's exposure; held: tokens of a window of "
        f"{float(plan.time(plan.window_slots)):g} s, background: of them those that have outlived their frame; reused:"
        f" windows, one every {float(plan.time(plan.stride_slots)):g} s, whose answers are repeated, since nothing is new.",
    )
    return tallies


def _decode(
    pictures: list[Published],
    tokens: int,
    policies: Sequence[Policy],
    tallies: Mapping[str, Tally],
    zones: Sequence[Zone],
) -> None:
    """Decodes a clip's pictures like a worker under each of _DECODED."""
    for policy in policies:
        if policy.name not in _DECODED:
            continue
        begin = partial(keep_state, tokens=tokens, config=policy.config, zones=zones)
        tallies[policy.name].decoding = decoding(pictures, policy.config.fps, begin)


@plain_text()
def keep_share_chart(by_clip: Mapping[str, Mapping[str, Tally]], path: Path) -> None:
    """Share of tokens kept over time, one row per clip, one line per policy. Raises ConfigError when it cannot be
    written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6 * len(by_clip) + 0.6), layout="constrained")
    axes = figure.subplots(len(by_clip), squeeze=False)[:, 0]
    for axis, (clip, tallies) in zip(axes, by_clip.items(), strict=True):
        for policy, colour in COLOURS.items():
            tally = tallies[policy]
            shares = [100 * share for share in tally.shares]
            axis.step(tally.times, shares, where="post", color=colour, linewidth=1.2, label=policy)
        axis.set_title(clip, loc="left", fontsize=10)
        axis.set(ylabel="tokens kept, %", ylim=(-2, 104), xlim=(0, max(tallies["all"].times) or 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("presentation time, s")
    axes[0].legend(ncols=len(COLOURS), frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
    save(figure, path)
