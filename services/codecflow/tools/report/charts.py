"""Charts of figures, with matplotlib (the extra `plots`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codecflow.errors import ConfigError

COLOURS = {"all": "#8a8a8a", "motion": "#d1495b", "motion-sampled": "#edae49", "replenish": "#00798c"}


def check_possible(folder: Path) -> None:
    """Raises ConfigError when charts cannot be written to `folder`: checked before the work whose results they show."""
    if not folder.is_dir():
        raise ConfigError(f"folder {folder}: no such folder; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("pictures need matplotlib: pip install 'codecflow[plots]'")


@contextmanager
def plain_text() -> Iterator[None]:
    """Disables math text inside the block: a $ in a question does not start a formula."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):
        yield


def save(figure: object, path: Path) -> None:
    """Writes a figure. Raises ConfigError when that fails."""
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    try:
        figure.savefig(path, dpi=110, facecolor="white")
    except (OSError, ValueError) as error:
        raise ConfigError(f"picture {path}: cannot be written ({error})") from error
