"""mkdocs hook: adds files of the repository that pages link to, so that every link works on the site.

A page of docs/ may link to any file, as on a code host: `../../schemas/asyncapi.yaml`. Such a file is added under
`repository/`, Markdown as a page with its own links, and links are rewritten. `mkdocs build --strict` reports broken
links.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\]\((?!#|[a-z]+:)([^)\s#]+)(#[^)\s]*)?\)")
_IN_SITE: dict[str, str] = {}
"""Path in the repository -> the file's path in the site's sources."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds files outside docs/ that pages link to, recursively."""
    root = Path(config.config_file_path).parent
    docs = os.path.relpath(config.docs_dir, root)
    _IN_SITE.clear()
    _IN_SITE.update({posixpath.join(docs, file.src_uri): file.src_uri for file in files})
    waiting = [name for name in _IN_SITE if name.endswith(".md")]
    while waiting:
        name = waiting.pop()
        for target in _targets(name, (root / name).read_text(encoding="utf-8")):
            if target not in _IN_SITE and (root / target).is_file():
                _IN_SITE[target] = f"repository/{target}"
                files.append(File.generated(config, _IN_SITE[target], abs_src_path=str(root / target)))
                if target.endswith(".md"):
                    waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links rewritten for the site."""
    here = page.file.src_uri
    name = next(path for path, place in _IN_SITE.items() if place == here)

    def replaced(link: re.Match[str]) -> str:
        place = _IN_SITE.get(_target(name, link[1]))
        if place is None:
            return link[0]
        return f"]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{link[2] or ''})"

    return _LINK.sub(replaced, markdown)


def _targets(name: str, text: str) -> Iterator[str]:
    for link in _LINK.finditer(text):
        yield _target(name, link[1])


def _target(name: str, link: str) -> str:
    """The path in the repository that `link` on the page `name` points to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
