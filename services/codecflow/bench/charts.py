"""Charts of the benchmarks' figures, with matplotlib (the extra `plots`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from codecflow.errors import ConfigError

if TYPE_CHECKING:
    from .policies import Tally

COLOURS = {"all": "#8a8a8a", "motion": "#d1495b", "motion-sampled": "#edae49", "replenish": "#00798c"}


def check_possible(folder: Path) -> None:
    """Raises ConfigError when no picture can be written to `folder`: known before the work that it is to show."""
    if not folder.is_dir():
        raise ConfigError(f"folder {folder}: no such folder; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("pictures need matplotlib: pip install 'codecflow[plots]'")


@contextmanager
def plain_text() -> Iterator[None]:
    """Text of figures that are drawn and saved inside is shown as it is: a $ in a question begins no formula."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):
        yield


@plain_text()
def keep_share_chart(by_clip: Mapping[str, Mapping[str, Tally]], path: Path) -> None:
    """Share of tokens kept over time, one row a clip, one line a policy. Raises ConfigError when it cannot be written."""
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


def save(figure: object, path: Path) -> None:
    """Writes a figure. Raises ConfigError when that cannot be done."""
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    try:
        figure.savefig(path, dpi=110, facecolor="white")
    except (OSError, ValueError) as error:
        raise ConfigError(f"picture {path}: cannot be written ({error})") from error
