"""Runs cases in separate processes, so that a hang or crash is detected and does not end the run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import typer

from codecflow.errors import ConfigError
from codecflow.tools.report.table import print_json, print_table

from . import child

_PROGRESS_EVERY_S = 10.0
_KINDS = ("wire", "bitstreams")
_MAX_REPORTED = 20


@dataclass(slots=True)
class _Share:
    """The cases of one process, and their results. `next`: the first that has not run yet."""

    next: int
    last: int
    progress: Path
    findings: Path
    running: subprocess.Popen[str] | None = None
    begun: int = 0
    accepted: int = 0
    problems: list[dict[str, object]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def start(self, kind: str, seed: int) -> None:
        self.progress.write_bytes(child.PROGRESS.pack(self.next, 0, 0, 0))
        command = [sys.executable, "-m", child.__name__, kind, str(seed), str(self.next), str(self.last)]
        self.running = subprocess.Popen(
            [*command, str(self.progress), str(self.findings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self) -> tuple[int, int, int]:
        """Number of the current case, and cases begun and accepted by the running process."""
        number, begun, accepted, _ = child.PROGRESS.unpack(self.progress.read_bytes())
        return number, begun, accepted

    def ended(self) -> None:
        """The process has ended. If it ended within a case, that is a finding, and the next process starts after that
        case."""
        assert self.running is not None
        output, errors = self.running.communicate()
        number, begun, accepted = self.read()
        self.begun, self.accepted = self.begun + begun, self.accepted + accepted
        if self.running.returncode == 0:
            self.counts.update(json.loads(output))
            self.next = self.last
        else:
            self.begun += 1
            problem = _ending(self.running.returncode, errors)
            self.problems.append({"case": number, "problem": problem})
            typer.echo(f"case {number}: {problem}", err=True)
            self.next = number + 1
        self.running = None


def _ending(status: int, errors: str) -> str:
    if status in (-signal.SIGALRM, -signal.SIGVTALRM):
        return f"not over after {child.SECONDS:g} s"
    said = errors.strip().splitlines()
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"ended with status {status}: {said[-1] if said else ''}"[:300]


def run(kind: str, *, cases: int, seed: int, processes: int) -> bool:
    """Runs `cases` cases; prints a table, then one JSON line. Returns whether there were no findings. Raises ConfigError."""
    _check(kind)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="codecflow-fuzz-") as name:
        folder = Path(name)
        bounds = [cases * n // processes for n in range(processes + 1)]
        shares = [
            _Share(first, last, folder / f"progress-{first}", folder / f"findings-{first}")
            for first, last in pairwise(bounds)
            if first < last
        ]
        try:
            _to_the_end(kind, seed, shares, cases)
        finally:
            for share in shares:
                if share.running is not None:
                    share.running.kill()
                    share.running.wait()
        for share in shares:
            if share.findings.exists():
                share.problems += [json.loads(line) for line in share.findings.read_text().splitlines()]
    return _report(kind, seed, shares, time.monotonic() - began)


def _to_the_end(kind: str, seed: int, shares: list[_Share], cases: int) -> None:
    report_at = time.monotonic() + _PROGRESS_EVERY_S
    while any(share.next < share.last for share in shares):
        for share in shares:
            if share.running is None and share.next < share.last:
                share.start(kind, seed)
            elif share.running is not None and share.running.poll() is not None:
                share.ended()
        if time.monotonic() > report_at:
            report_at += _PROGRESS_EVERY_S
            done = sum(share.begun + (share.read()[1] if share.running else 0) for share in shares)
            typer.echo(f"{done} of {cases} cases, {sum(len(share.problems) for share in shares)} ended", err=True)
        time.sleep(0.02)


def _report(kind: str, seed: int, shares: list[_Share], seconds: float) -> bool:
    problems = sorted((one for share in shares for one in share.problems), key=lambda one: int(str(one["case"])))
    begun, accepted = sum(share.begun for share in shares), sum(share.accepted for share in shares)
    counts = sum((share.counts for share in shares), Counter[str]())
    rows: list[tuple[str, object]] = [("cases", begun), ("accepted", accepted), ("problems", len(problems))]
    rows += sorted(counts.items())
    print_table(f"{kind}, seed {seed}", ["", "count"], rows, note="a case again: codecflow fuzz KIND --seed S --case N")
    for one in problems[:_MAX_REPORTED]:
        print(f"case {one['case']}: {one['problem']}")
    figures: dict[str, object] = {"kind": kind, "seed": seed, "cases": begun, "accepted": accepted}
    print_json({**figures, "problems": problems, "counts": dict(counts), "seconds": round(seconds, 1)})
    return not problems


def again(kind: str, *, seed: int, case: int) -> None:
    """Runs one case in this process: prints it, and what it raises. Raises ConfigError."""
    _check(kind)
    with child.cases(kind, seed) as cases:
        print(cases.describe(case)[:20_000])
        print("accepted" if cases.run(case) else "refused, as it should be")


def _check(kind: str) -> None:
    if kind not in _KINDS:
        raise ConfigError(f"fuzz {kind}: use wire or bitstreams")
