"""One process that runs cases. Its memory and time are limited: what goes beyond ends it, and its parent goes on behind."""

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
"""How long a case may take."""

BYTES = 1 << 30
"""Of memory that a case may take."""

PROGRESS = struct.Struct("<qqqq")
"""Number of the case under way, cases begun, accepted, bytes that the process takes."""

_LOAD = 8.0
"""On a busy machine a case gets less of a core: it may take so many times SECONDS by the clock before it is ended, but not
more than SECONDS of processor time."""


def cases(kind: str, seed: int) -> AbstractContextManager[Any]:
    """The cases of `kind`: wire or bitstreams."""
    if kind == "wire":
        from .wire import wire_cases

        return wire_cases(seed)
    from .bitstreams import bitstream_cases

    return bitstream_cases(seed)


def main(kind: str, seed: int, first: int, last: int, progress: Path, findings: Path) -> None:
    """Run the cases from `first` up to before `last`: a JSON line for each that went wrong, and one of counts at the end."""
    with (
        cases(kind, seed) as all_cases,
        progress.open("r+b") as file,
        findings.open("a") as found,
        mmap.mmap(file.fileno(), PROGRESS.size) as shared,
    ):
        all_cases.run(first)  # what is loaded at first use
        before = _peak()
        begun = accepted = 0
        for number in range(first, last):
            PROGRESS.pack_into(shared, 0, number, begun, accepted, before)
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, SECONDS * _LOAD)
            problem = ""
            try:
                accepted += all_cases.run(number)
            except Exception as error:  # noqa: BLE001  # what a case raises is what is looked for
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
    """Bytes of memory that this process has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    kind, seed, first, last, progress, findings = sys.argv[1:]
    main(kind, int(seed), int(first), int(last), Path(progress), Path(findings))
