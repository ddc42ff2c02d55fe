"""What replaces a model's patches in sampler processes, which import this module: whole pictures. It must not import
transformers, which takes seconds in each of them."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import numpy.typing as npt

from codecflow.grid import TokenGrid

Pixels = npt.NDArray[np.uint8]

BAD_SIZE = (98, 130)
"""(width, height) of pictures that `crashing` and `hanging` fail on."""


def grid(width: int, height: int) -> TokenGrid:
    return TokenGrid.regular(6, 8, width, height)


def planes(rgb: Pixels, keep: npt.NDArray[np.bool_]) -> Pixels:
    """The unchanged picture."""
    return rgb


def crashing(rgb: Pixels, keep: npt.NDArray[np.bool_]) -> Pixels:
    """Bad pictures end the process, like a fault in a decoder."""
    if rgb.shape[:2] == BAD_SIZE[::-1]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return rgb


def hanging(rgb: Pixels, keep: npt.NDArray[np.bool_]) -> Pixels:
    if rgb.shape[:2] == BAD_SIZE[::-1]:
        time.sleep(1000)
    return rgb
