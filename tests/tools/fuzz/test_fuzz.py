"""A seeded sample of the cases of `codecflow fuzz`, and that it detects failures."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from codecflow.tools.fuzz import child
from codecflow.tools.fuzz import run as runs
from codecflow.tools.fuzz.bitstreams import FUZZED, bitstream_cases
from codecflow.tools.fuzz.wire import Target, WireCases, wire_cases


def test_a_sample_of_the_wire() -> None:
    with wire_cases(seed=20261128) as cases:
        accepted = sum(cases.run(number) for number in range(2000))
    assert 20 < accepted < 1500


def test_a_sample_of_bitstreams() -> None:
    """A file or records of each codec."""
    with bitstream_cases(seed=20261128) as cases:
        for number in range(0, 4 * len(FUZZED), 5):
            cases.run(number)
        assert cases.counts["frames"] > 5


def test_what_is_wrong_is_found_and_named_by_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> object:
        if cases.number == 3:
            raise KeyError("a bug")
        return data

    class Counted(WireCases):
        number = -1

        def run(self, number: int) -> bool:
            self.number = number
            return super().run(number)

    cases = Counted(0, {"one": Target((b"x",), read, json=False)})

    class Context:
        def __enter__(self) -> WireCases:
            return cases

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(child, "cases", lambda kind, seed: Context())
    (tmp_path / "progress").write_bytes(bytes(child.PROGRESS.size))
    child.main("wire", 0, 0, 6, tmp_path / "progress", tmp_path / "findings")
    (found,) = map(json.loads, (tmp_path / "findings").read_text().splitlines())
    assert found == {"case": 3, "problem": "KeyError: 'a bug'"}
    assert child.PROGRESS.unpack((tmp_path / "progress").read_bytes())[:3] == (6, 6, 5)


def test_a_process_that_is_ended_names_its_case_and_the_next_goes_on_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The fifth case hangs, from its process's point of view."""
    program = tmp_path / "child.py"
    program.write_text(
        "import signal, struct, sys\n"
        "first, last = map(int, sys.argv[3:5])\n"
        "for number in range(first, last):\n"
        "    open(sys.argv[5], 'wb').write(struct.pack('<qqqq', number, number - first, 0, 0))\n"
        "    if number == 5:\n"
        "        signal.raise_signal(signal.SIGALRM)\n"
        "open(sys.argv[5], 'wb').write(struct.pack('<qqqq', last, last - first, 0, 0))\n"
        "print('{}')\n"
    )
    popen = runs.subprocess.Popen

    def started(command: list[str], **how: object) -> object:
        return popen([command[0], str(program), *command[3:]], **how)  # type: ignore[call-overload]

    monkeypatch.setattr(runs.subprocess, "Popen", started)
    began = time.monotonic()
    assert not runs.run("wire", cases=9, seed=0, processes=1)
    out, err = capfd.readouterr()
    assert "case 5: not over after 2 s\n" in err, "at once, not only at the end"
    said = json.loads(out.splitlines()[-1])
    assert said["problems"] == [{"case": 5, "problem": "not over after 2 s"}]
    assert said["cases"] == 9
    assert time.monotonic() - began < 60
