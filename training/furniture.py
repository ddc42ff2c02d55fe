"""Cut-outs of furniture and other household things, and of people who sit, lie, stand: the icons of Sweet Home 3D's models.

Photographs tell little of what is no vehicle; a bed with pillows was taken for one.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

PACKAGE = "sweethome3d-furniture_1.8-1_all.deb"
SHA256 = "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668"
FETCH = "apt-get download sweethome3d-furniture=1.8-1"
"""Debian's package and how to come by it. Its models are CC0, CC-BY 3.0 and CC-BY 3.0 US."""

PEOPLE = "Reallusion"
"""The one library of which every model is a person."""

BAGS = ("backpack", "briefcase", "handbag", "suitcase")
LEFT_OUT = re.compile(
    r"\b(car model|biplane|rowboat|scooter|stroller|wheelbarrow|fork lift|mower|toy train|motor.*|wood toy|parking .*"
    r"|rocking horse|chicken|dog|cat|teddy bear)$"
)
"""Names of models that are vehicles, animals or people, or look like some, under headings that do not say so."""

HELD_OUT = 6
"""Of so many models one is kept for validation."""


@dataclass(frozen=True)
class Model:
    """`rgba`: (height, width, 4). `kind`: "person", "bag" or "other". `split`: "train" or "val"."""

    rgba: npt.NDArray[np.uint8]
    kind: str
    split: str


def package_in(data: Path) -> bytes:
    """The package. Raises SystemExit when it is not there."""
    file = data / "train" / PACKAGE
    content = file.read_bytes() if file.exists() else b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"prepare.py: {file} is missing, or is another one: {FETCH}")
    return content


def furniture(data: Path) -> Iterator[Model]:
    """All models. Raises SystemExit when the package is not there."""
    with tarfile.open(fileobj=io.BytesIO(_member(package_in(data), "data.tar.xz"))) as package:
        for member in package:
            if member.name.endswith(".sh3f") and (library := package.extractfile(member)) is not None:
                with zipfile.ZipFile(io.BytesIO(library.read())) as models:  # in memory: going back in an .xz is slow
                    yield from _models(models, Path(member.name).stem)


def _models(models: zipfile.ZipFile, library: str) -> Iterator[Model]:
    lines = models.read("PluginFurnitureCatalog.properties").decode("latin-1")
    fields: dict[str, dict[str, str]] = {"name": {}, "category": {}, "icon": {}}
    for line in lines.splitlines():
        if match := re.match(r"(name|category|icon)#(\d+)=(.*)", line):
            fields[match[1]][match[2]] = match[3].strip()
    for number, (key, icon) in enumerate(fields["icon"].items()):
        name, category = fields["name"].get(key, "").lower(), fields["category"].get(key, "")
        person = library == PEOPLE
        if not person and (category in ("Vehicles", "Characters") or LEFT_OUT.search(name)):
            continue
        rgba = np.asarray(Image.open(io.BytesIO(models.read(icon.lstrip("/")))).convert("RGBA"))
        split = "val" if number % HELD_OUT == 0 else "train"
        kind = "person" if person else "bag" if name in BAGS else "other"
        yield Model(rgba, kind, split)


def _member(archive: bytes, name: str) -> bytes:
    """One file of an `ar` archive, as which Debian's packages come: headers of 60 bytes, contents padded to even lengths."""
    at = len(b"!<arch>\n")
    while at < len(archive):
        size = int(archive[at + 48 : at + 58])
        if archive[at : at + 16].decode().strip().rstrip("/") == name:
            return archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise SystemExit(f"prepare.py: {PACKAGE} has no {name}")
