"""What is compared: keep and refresh policies of the product, and baselines that it does not offer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from codecflow.errors import ConfigError
from codecflow.keep import POLICY_NAMES, KeepConfig, parse_coverage
from codecflow.vlm.inputs import ModelInput
from codecflow.vlm.refresh import Refresh
from codecflow.vlm.work import Frame
from codecflow.worker.window_plan import WindowPlan

from .contender_names import REFERENCE

DEFAULT = (
    "all/all,all/none,motion/none,motion/anchors,replenish/none,replenish/anchors,replenish/shifted,replenish/random,"
    "replenish/contiguous,random/none,motion-2/none,motion-8/none,last-1/all,last-2/all,last-4/all,every-4/none,"
    "every-8/none,every-16/none"
)

KEEPS = (*POLICY_NAMES, "motion-PX", "random", "last-N", "every-N")

REFRESHES = {
    "none": Refresh("none"),
    "anchors": Refresh("anchors"),
    "shifted": Refresh("budget", by="shifted", matched=True),
    "random": Refresh("budget", by="random", matched=True),
    "contiguous": Refresh("budget", by="position", matched=True),
    "deviation": Refresh("budget", by="deviation", matched=True),
    "all": Refresh("all"),
}

Thin = Callable[[Frame, ModelInput], Frame]


@dataclass(frozen=True, slots=True)
class Contender:
    """A keep and a refresh policy, `name` KEEP[@COVERAGE]/REFRESH. `thin`: how a baseline changes each frame's mask.
    `whole`: it is given all patches of a frame of which the policy keeps any, since it keeps others."""

    name: str
    plan: WindowPlan
    keep: KeepConfig
    refresh: Refresh
    thin: Thin | None = None
    whole: bool = False


def contenders(
    names: str, plan: WindowPlan, coverage: str | None, match: str | None = None, reference: str = REFERENCE
) -> list[Contender]:
    """The reference first, then the given names, separated by commas. `match`: added if not among them. Raises ConfigError,
    which says which option has the unknown name."""
    keep = KeepConfig("all", plan.fps, *parse_coverage(coverage, plan.time(plan.window_slots), plan.fps))
    wanted = dict.fromkeys(name.strip() for name in names.split(",") if name.strip())
    found = [_contender(reference, "--reference", plan, keep)]
    found += [_contender(name, "--policies", plan, keep) for name in wanted if name != reference]
    if match is not None and match not in (one.name for one in found):
        found.append(_contender(match, "--match", plan, keep))
    return found


def _contender(name: str, option: str, plan: WindowPlan, config: KeepConfig) -> Contender:
    """`option`: the option that contains the name. `config`: the settings that all share, whatever their policy."""
    keep, _, refresh = name.partition("/")
    keep, at, coverage = keep.partition("@")
    if at:
        try:
            kind, period_s, slack_s = parse_coverage(coverage, plan.time(plan.window_slots), plan.fps)
            config = replace(config, coverage=kind, period_s=period_s, slack_s=slack_s)
        except ConfigError as error:
            raise ConfigError(f"{option} {name!r}: {error}") from None
    policy, _, number = keep.partition("-")
    known = (
        keep in (*POLICY_NAMES, "random")
        or (policy in ("last", "every") and number.isdecimal() and int(number) > 0)
        or (policy == "motion" and _is_number(number))
    )
    if not known or not (refresh in REFRESHES or refresh.partition("=")[0] == "budget"):
        raise ConfigError(
            f"{option} {name!r}: give KEEP[@COVERAGE]/REFRESH, KEEP one of {', '.join(KEEPS)}, REFRESH one of"
            f" {', '.join(REFRESHES)} or budget=SHARE"
        )
    try:
        refreshing = REFRESHES.get(refresh) or Refresh.parse(refresh)
        if policy == "last":
            # a window of that many frames: earlier ones never enter it
            short = replace(plan, window_slots=min(plan.window_slots, int(number)))
            return Contender(name, short, KeepConfig("all", plan.fps, period_s=Fraction(1) / plan.fps), refreshing)
        if policy == "every":
            return Contender(name, plan, config, refreshing, every(int(number)))
        if policy == "random":
            return Contender(name, plan, replace(config, policy="replenish"), refreshing, at_random, whole=True)
        if policy == "motion" and number:
            return Contender(name, plan, replace(config, policy="motion", tau_px=float(number)), refreshing)
        return Contender(name, plan, replace(config, policy=keep), refreshing)  # type: ignore[arg-type]  # a known one
    except ConfigError as error:
        raise ConfigError(f"{option} {name!r}: {error}") from None


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()


def at_random(frame: Frame, model: ModelInput) -> Frame:
    """As many tokens as the policy kept of this frame, at random places; the same ones in every run. The frame has all
    patches."""
    if frame.patches is None:
        return frame
    seed = int.from_bytes(hashlib.blake2b(f"{frame.index}/{frame.keep.size}".encode(), digest_size=6).digest())
    keep = np.random.default_rng(seed).permutation(frame.keep)
    height, width = model.size(*frame.size)

    def numbered(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        places = model.places(np.flatnonzero(mask), (height, width))
        return places[:, 0] * (width // model.patch) + places[:, 1]

    order = np.argsort(numbered(np.ones_like(keep)))
    return replace(frame, keep=keep, patches=frame.patches[order[numbered(keep)]])


def every(step: int) -> Thin:
    """Every `step`-th slot's frame unchanged, nothing of the others."""

    def thin(frame: Frame, _: ModelInput) -> Frame:
        if frame.index % step == 0:
            return frame
        return replace(frame, keep=np.zeros_like(frame.keep), patches=None, anchor=False)

    return thin
