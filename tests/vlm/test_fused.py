"""Triton's kernels, interpreted on the CPU, compared with plain functions and plain attention."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

PROGRAM = """
import torch
from codecflow.vlm import fused, fused_triton, kernels, paged_triton
cpu = torch.device("cpu")
shapes = [(6, 2, 16), (4, 4, 64)]
print(max(kernels.single_deviation(paged_triton.single_queries, cpu, torch.float32, *shape) for shape in shapes))
# Of e4m3 only the scales: the interpreter does not round to it as a GPU does. Before use on one, both are checked there.
x = torch.randn(7, 5000)
print(float((fused_triton.quantised(x)[1] - fused.quantised(x)[1]).abs().max()))
print(fused.eight_bit_deviation(fused.Fused(), cpu, torch.float32) / fused.E4M3_ROUNDING)
print(max(fused.deviation(fused_triton.FUSED, torch.device("cpu"), dtype) for dtype in (torch.float32, torch.float16)))
"""


def test_each_kernel_computes_what_the_plain_function_does() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    single, scales, rounding, fused = map(float, done.stdout.split())
    assert single < 1e-4
    assert scales == 0
    assert rounding < 1.01
    assert fused < 0.004
