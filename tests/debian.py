"""Third-party servers that tests use: installed, or unpacked by `make servers`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

_UNPACKED = Path(sys.prefix) / "debian"


def find_program(name: str) -> str:
    """The path of a program. Skips the test if it is missing."""
    folders = (str(_UNPACKED / folder) for folder in ("usr/bin", "usr/sbin"))
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", *folders)))
    if found is None:
        pytest.skip(f"no {name}: make servers unpacks Debian's")
    return found


def environment() -> dict[str, str]:
    """The environment with the libraries that such programs need."""
    libraries = [str(folder) for folder in (_UNPACKED / "usr" / "lib").glob("*-linux-gnu")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")])}
