"""The documentation site: reference pages generated from the code, and the mkdocs hook that includes linked files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[4]
"""The repository's root, with schemas/ and docs/."""
