"""Furniture is read from Debian's package in its original format."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

CATALOG = """# a comment
name#1=Bed
category#1=Bedroom
icon#1=/maker/bed.png
model#1=/maker/bed/bed.obj
name#2=Sports car
category#2=Vehicles
icon#2=/maker/car.png
name#3=Toy train
category#3=Miscellaneous
icon#3=/maker/bike.png
name#4=Briefcase
category#4=Office
icon#4=/maker/case.png
name#5=Sitting boy
category#5=Characters
icon#5=/maker/boy.png
"""


def _library() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as library:
        library.writestr("PluginFurnitureCatalog.properties", CATALOG)
        for i, name in enumerate(("bed", "car", "bike", "case", "boy")):
            icon = io.BytesIO()
            Image.new("RGBA", (8, 6), (i, 0, 0, 200)).save(icon, "PNG")
            library.writestr(f"maker/{name}.png", icon.getvalue())
    return file.getvalue()


def _package() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as files:
        for name in ("Scopia", "Reallusion"):
            member = tarfile.TarInfo(f"./usr/share/sweethome3d/furniture/{name}.sh3f")
            member.size = len(_library())
            files.addfile(member, io.BytesIO(_library()))
    archive = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n "), ("data.tar.xz", data.getvalue())):  # the first of odd length
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    return archive


def test_models_are_things_bags_or_people_and_vehicles_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import furniture

    (tmp_path / "train").mkdir()
    package = _package()  # once: its files contain the time of day
    (tmp_path / "train" / furniture.PACKAGE).write_bytes(package)
    monkeypatch.setattr(furniture, "SHA256", hashlib.sha256(package).hexdigest())
    found = list(furniture.furniture(tmp_path))
    # From the second library, in which all are people, whatever their names.
    assert [(int(model.rgba[0, 0, 0]), model.kind) for model in found] == [
        (0, "other"),
        (3, "bag"),
        *((i, "person") for i in range(5)),
    ]
    assert [model.split for model in found] == ["val", "train", "val", *["train"] * 4]
    assert found[0].rgba.shape == (6, 8, 4)
    assert found[0].rgba[0, 0, 3] == 200


def test_a_package_that_is_missing_or_another_one_is_reported_in_a_line(tmp_path: Path) -> None:
    import furniture

    with pytest.raises(SystemExit, match=r"train/sweethome3d-.*\.deb is missing, or is another one: apt-get download"):
        list(furniture.furniture(tmp_path))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / furniture.PACKAGE).write_bytes(_package())
    with pytest.raises(SystemExit, match="is missing, or is another one"):
        list(furniture.furniture(tmp_path))
