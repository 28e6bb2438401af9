"""Put pages from outside ``docs/`` into the site, and the files that its pages link to. MkDocs calls this.

Pages link to each other as files of the repository, so that the same links work on a code host and on the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "examples/photos/LICENSES.md": "photo-licences.md",
}
"""Pages of the site by their place in the repository."""

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)((?:#[^)\s]*)?)(?=\))")
_LOADED = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=["']?(https?://[^"'\s>]+)""")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside ``docs/``."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to files of the repository into links to pages, or to copies of these files."""
    home = next((source for source, name in PAGES.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    upwards = "../" * page.file.src_uri.count("/")

    def linked(found: re.Match[str]) -> str:
        target = (ROOT / home).parent.joinpath(found[1]).resolve()
        if not target.is_file() or not target.is_relative_to(ROOT):
            return found[0]  # MkDocs reports it
        name = target.relative_to(ROOT).as_posix()
        uri = PAGES.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else f"files/{name}")
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(target)))
        return f"{upwards}{uri}{found[2]}"

    return _LINK.sub(linked, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that would load something from another host."""
    if loaded := [address for address in _LOADED.findall(output) if address not in (page.canonical_url or "")]:
        raise PluginError(f"{page.file.src_uri} loads {', '.join(loaded)}: the site must be complete in itself")
    return output
