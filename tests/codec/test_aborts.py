"""abort() in a call of a C library: an error for that call's thread, the end of the process anywhere else."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codecflow.codec.reader import AbortedError, Reader
from codecflow.codec.source import Source
from codecflow.errors import SourceError

from .aborting import aborting_ts
from .clips import encode

_USED = """
import ctypes, faulthandler, os, signal, sys
from codecflow.codec.reader import AbortedError, Reader
if "faulthandler" in sys.argv:
    faulthandler.enable()
try:
    Reader(lambda: False).call(ctypes.CDLL(None).abort, 30)
except AbortedError:
    print("went on", flush=True)
"""


def call(job: Callable[[], object]) -> object:
    reader = Reader(lambda: False)
    try:
        return reader.call(job, 30)
    finally:
        reader.close(lambda: None)


def test_an_abort_is_an_error_of_its_call() -> None:
    for _ in range(3):
        with pytest.raises(AbortedError):
            call(ctypes.CDLL(None).abort)
        assert call(lambda: 7) == 7


def test_an_abort_after_some_items_is_an_error_after_them() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        ctypes.CDLL(None).abort()

    read = Reader(lambda: False).iterate(items, 30)
    assert [next(read), next(read), next(read)] == [1, 2, 3]
    with pytest.raises(AbortedError):
        next(read)


@pytest.mark.parametrize("faulthandler", ["faulthandler", ""])
@pytest.mark.parametrize("how", ["os.abort()", "os.kill(os.getpid(), signal.SIGABRT); signal.pause()"])
def test_any_other_abort_ends_the_process(how: str, faulthandler: str) -> None:
    command = [sys.executable, "-c", _USED + how, faulthandler]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGABRT, "went on\n")
    assert ("Fatal Python error: Aborted" in done.stderr) == bool(faulthandler)


def test_a_process_with_an_aborted_call_ends_normally() -> None:
    done = subprocess.run([sys.executable, "-c", _USED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_data_at_which_ffmpeg_aborts(tmp_path: Path) -> None:
    path = tmp_path / "aborts.ts"
    path.write_bytes(aborting_ts())
    with pytest.raises(SourceError, match=r"cannot be opened: aborted: .*; repair or convert it") as error:
        Source(str(path))
    assert error.value.code == "aborted"
    with Source(str(encode(tmp_path / "clip"))) as source:
        assert len(list(source.pictures("gate", 1))) == 30
