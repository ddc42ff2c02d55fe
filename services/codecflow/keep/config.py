"""Which keep policy a worker runs, and how often every grid cell is kept regardless of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from codecflow.errors import ConfigError

PolicyName = Literal["all", "motion", "replenish"]
POLICY_NAMES: tuple[str, ...] = get_args(PolicyName)

CoverageKind = Literal["anchor", "rolling", "background"]
COVERAGE_KINDS: tuple[str, ...] = get_args(CoverageKind)

DEFAULT_PERIOD_S = Fraction(8)
"""Default seconds from one anchor to the next."""

BACKGROUND_PERIOD_S = Fraction(120)
"""The same where tokens outlive their frames. An anchor then only bounds how old a token's context can get, and how far back
a successor reads: at 2 frames/s it costs 0.4 % of all tokens (docs/decisions/023-background.md)."""

_BACKGROUND_SLACK_S = Fraction(16)  # with keyframes at most 16 s apart, nothing is decoded only for an anchor


@dataclass(frozen=True, slots=True)
class KeepConfig:
    """A keep policy, its thresholds and its coverage.

    `fps`: sampled frames per second; a frame's slot is its presentation time times `fps`. `coverage` `anchor` keeps all
    tokens of one frame in every `period_s` seconds, `rolling` forces a rotating share of them in each frame, each token once
    in `period_s`. `background` is `anchor` for a model that holds each cell's newest token after its frame has left the
    window: `period_s` may then be longer than a window. An anchor waits up to `slack_s` seconds for a keyframe, which is
    decoded by itself, so that every cell has a kept token in any `period_s` + `slack_s` seconds in which no frame is
    missing.

    `threshold`: a token is kept when its mean luma differs from when it was last kept by more than this many grey levels;
    `detail_threshold`: the same for any of its cells, about 7x7 pixels at the model's scale (boxes.py), for objects too
    small to change the mean; lower in small pictures. Noise raises both (certificate.py). `tau_px`: vectors of at least this
    many pixels move a token (`motion` only).

    Raises ConfigError on an unknown name or an impossible value.
    """

    policy: PolicyName = "replenish"
    fps: Fraction = Fraction(2)
    coverage: CoverageKind = "anchor"
    period_s: Fraction = DEFAULT_PERIOD_S
    slack_s: Fraction = Fraction(0)
    threshold: float = 4.0
    detail_threshold: float = 7.75
    tau_px: float = 0.5

    def __post_init__(self) -> None:
        if self.policy not in POLICY_NAMES:
            raise ConfigError(f"keep policy {self.policy!r}: use one of {', '.join(POLICY_NAMES)}")
        if self.coverage not in COVERAGE_KINDS:
            raise ConfigError(f"coverage {self.coverage!r}: use one of {', '.join(COVERAGE_KINDS)}")
        if self.fps <= 0:
            raise ConfigError(f"fps {self.fps}: must be above 0")
        slots = Fraction(self.period_s) * Fraction(self.fps)
        if slots < 1 or slots.denominator != 1:
            raise ConfigError(
                f"coverage period {float(self.period_s):g} s is not a whole number of frames at {float(self.fps):g} "
                f"frames/s: use a multiple of {float(1 / Fraction(self.fps)):g} s"
            )
        if not 0 <= self.slack_s <= self.period_s:
            raise ConfigError(f"coverage slack {float(self.slack_s):g} s: must lie within the period")
        if not (0 <= self.threshold <= 255 and 0 <= self.detail_threshold <= 255):
            raise ConfigError("keep thresholds are grey levels: use 0 to 255")
        if not 0.25 <= self.tau_px <= 63.75:
            raise ConfigError(
                f"tau {self.tau_px} px: use 0.25 to 63.75, what the codec signal's vectors can tell apart"
            )

    @property
    def period_slots(self) -> int:
        """The coverage period in frames, at least 1."""
        return int(Fraction(self.period_s) * Fraction(self.fps))

    @property
    def slack_slots(self) -> int:
        """For how many frames an anchor waits for a keyframe."""
        return int(Fraction(self.slack_s) * Fraction(self.fps)) if self.coverage != "rolling" else 0

    @property
    def background(self) -> bool:
        """Whether tokens outlive their frames."""
        return self.coverage == "background"

    @property
    def memory_s(self) -> Fraction:
        """How far back in presentation time a mask can depend on what was seen.

        A replay that starts at least this long before a frame produces the same masks from that frame on.
        """
        return Fraction(0) if self.policy == "all" else Fraction(self.period_s + self.slack_s)


def parse_coverage(text: str | None, window_s: Fraction, fps: Fraction) -> tuple[CoverageKind, Fraction, Fraction]:
    """(kind, period, slack in seconds) given by `text`, for windows of `window_s` seconds at `fps` sampled frames per
    second.

    `N`: an anchor every N seconds; `once`: an anchor per window; `rolling=N`: every cell once in N seconds, a share of them
    in each frame; `rolling`: every cell once per window; `background=N`: an anchor every N seconds, `background` every 120
    s, and tokens outlive their frames; None: an anchor every 8 s, or the nearest smaller period that frames and window
    allow. Anchors wait for a keyframe for another period, if the window has room for both: every window has every cell.
    Raises ConfigError on anything else, and on a period longer than the window if a window could then lack cells."""
    if text is not None and text.startswith("background"):
        return "background", *_background(text, fps)
    kind: CoverageKind = "rolling" if text is not None and text.startswith("rolling") else "anchor"
    if text is None:
        period_s = max(1, int(min(DEFAULT_PERIOD_S, window_s) * fps)) / fps
    else:
        try:
            period_s = window_s if text in ("once", "rolling") else Fraction(text.removeprefix("rolling="))
        except (ValueError, ZeroDivisionError):
            raise ConfigError(
                f"coverage {text!r}: use SECONDS between anchors, once, rolling[=SECONDS] or background[=SECONDS]"
            ) from None
    if not 0 < period_s <= window_s:
        raise ConfigError(
            f"coverage {text!r}: every window must have every cell, so its period must lie within {float(window_s):g} s"
        )
    slack_s = min(period_s, window_s - period_s) if kind == "anchor" else Fraction(0)
    return kind, period_s, slack_s


def _background(text: str, fps: Fraction) -> tuple[Fraction, Fraction]:
    """Period and slack of `background` or `background=SECONDS`."""
    if text == "background":
        period_s = max(1, int(BACKGROUND_PERIOD_S * fps)) / fps
    else:
        try:
            period_s = Fraction(text.removeprefix("background="))
        except (ValueError, ZeroDivisionError):
            raise ConfigError(f"coverage {text!r}: background=SECONDS takes a number") from None
        if period_s <= 0:
            raise ConfigError(f"coverage {text!r}: give a number above 0")
    return period_s, min(period_s, _BACKGROUND_SLACK_S)
