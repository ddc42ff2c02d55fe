"""Peak rates of a device: matrix products and copies, measured, not taken from a data sheet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from codecflow.vlm.fused import quantised

REPEATS = 15


@dataclass(frozen=True, slots=True)
class Peaks:
    """`tflops`: of a large product, by precision (`fp8` if the device supports it). `gbytes_per_s`: read and written by a
    copy. `side`: of the square matrices."""

    tflops: dict[str, float]
    gbytes_per_s: float
    side: int


def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """Medians of several runs."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    operations = 2 * side**3 / 1e12
    tflops = {str(dtype).removeprefix("torch."): operations / _seconds(lambda: a @ b, device)}
    if device.type == "cuda":
        (x, x_scale), (w, w_scale) = quantised(a), quantised(b)
        try:
            eighth = _seconds(
                lambda: torch._scaled_mm(x, w.t(), x_scale, w_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True),
                device,
            )
        except (RuntimeError, NotImplementedError):  # a GPU without 8-bit floating point
            pass
        else:
            tflops["fp8"] = operations / eighth
    block = torch.zeros((2**30 if device.type == "cuda" else 2**27), dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    return Peaks(tflops, 2 * block.nbytes / 1e9 / _seconds(lambda: other.copy_(block), device), side)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    wait()
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - begun)
    return median(times)
