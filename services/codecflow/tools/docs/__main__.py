"""`python -m codecflow.tools.docs` writes docs/reference/ from the code. `make docs` runs it and builds the site."""

from __future__ import annotations

from . import ROOT
from .reference import PAGES

for name, page in PAGES.items():
    path = ROOT / "docs" / "reference" / name
    path.write_text(page(), encoding="utf-8")
