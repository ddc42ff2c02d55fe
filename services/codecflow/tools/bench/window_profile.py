"""Where one slide's time goes on a GPU, by kernel: for when a figure falls short of what was expected."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def profiled(step: Callable[[], object], rows: int = 25) -> str:
    """Runs `step` under torch's profiler: a table of the kernels (operators on a CPU) that took the most time."""
    gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as found:
        step()
    order = "self_cuda_time_total" if gpu else "self_cpu_time_total"
    table: str = found.key_averages().table(sort_by=order, row_limit=rows, max_name_column_width=60)
    return table
