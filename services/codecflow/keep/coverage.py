"""Which tokens are kept whatever the policy says, so that every cell has a kept token in every window.

It depends on presentation time alone (slot numbers count from the start of the epoch), so that a replay forces the same
tokens. A token whose slot has no frame is forced in the next frame there is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .config import KeepConfig


def forced_tokens(config: KeepConfig, tokens: int, previous: int | None, slot: int) -> npt.NDArray[np.bool_]:
    """(tokens,) bool: tokens due in the slots after `previous`, up to and with `slot`.

    `previous` is the slot of the frame before, None for the first frame of all: nothing was seen, so all are due.
    """
    if previous is None:
        return np.ones(tokens, bool)
    period = config.period_slots
    if config.coverage == "anchor":
        return np.full(tokens, slot // period != previous // period)
    # Token t is due in slots s with s % period == t % period: a share of 1 / period of the tokens each time.
    phase = np.arange(tokens) % period
    return np.asarray((slot - phase) // period != (previous - phase) // period)
