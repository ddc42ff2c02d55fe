"""A process that runs cases. Its memory and time are limited: exceeding them ends it, and its parent continues after the
case."""

from __future__ import annotations

import json
import mmap
import resource
import signal
import struct
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""Maximum time of a case."""

BYTES = 1 << 30
"""Maximum memory of a case."""

PROGRESS = struct.Struct("<qqqq")
"""Number of the current case, cases begun, accepted, bytes of memory used by the process."""

_LOAD = 8.0
"""On a busy machine a case gets less of a core: its wall-clock limit is this many times SECONDS, its limit of processor time
is SECONDS."""


def cases(kind: str, seed: int) -> AbstractContextManager[Any]:
    """The cases of `kind`: wire or bitstreams."""
    if kind == "wire":
        from .wire import wire_cases

        return wire_cases(seed)
    from .bitstreams import bitstream_cases

    return bitstream_cases(seed)


def main(kind: str, seed: int, first: int, last: int, progress: Path, findings: Path) -> None:
    """Runs the cases from `first` up to but excluding `last`: a JSON line for each failure, and one of counts at the end."""
    with (
        cases(kind, seed) as all_cases,
        progress.open("r+b") as file,
        findings.open("a") as found,
        mmap.mmap(file.fileno(), PROGRESS.size) as shared,
    ):
        all_cases.run(first)  # loads what is loaded on first use
        before = _peak()
        begun = accepted = 0
        for number in range(first, last):
            PROGRESS.pack_into(shared, 0, number, begun, accepted, before)
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, SECONDS * _LOAD)
            problem = ""
            try:
                accepted += all_cases.run(number)
            except Exception as error:  # noqa: BLE001  # any exception is a finding
                problem = f"{type(error).__name__}: {error}"[:300]
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            begun += 1
            peak = _peak()
            if peak - before > BYTES:
                problem = problem or f"{(peak - before) / 2**20:.0f} MiB of memory"
            before = max(before, peak) if peak - before > BYTES else before
            if problem:
                found.write(json.dumps({"case": number, "problem": problem}) + "\n")
                found.flush()
        PROGRESS.pack_into(shared, 0, last, begun, accepted, before)
        print(json.dumps(dict(getattr(all_cases, "counts", {}))))


def _peak() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    kind, seed, first, last, progress, findings = sys.argv[1:]
    main(kind, int(seed), int(first), int(last), Path(progress), Path(findings))
