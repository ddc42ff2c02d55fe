"""Replaces a model's input in sampler processes, which import this module: it fails on some pictures."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import numpy.typing as npt
import torch

BAD_SIZE = (98, 130)
"""(width, height) of those pictures."""


def crashing(rgb: npt.NDArray[np.uint8]) -> torch.Tensor:
    """They end the process, like a fault in a decoder."""
    if rgb.shape[:2] == BAD_SIZE[::-1]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return torch.from_numpy(rgb)


def hanging(rgb: npt.NDArray[np.uint8]) -> torch.Tensor:
    if rgb.shape[:2] == BAD_SIZE[::-1]:
        time.sleep(1000)
    return torch.from_numpy(rgb)
