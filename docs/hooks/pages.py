"""mkdocs hook: pages that are generated, and files from outside docs/ that belong to the site.

Generated at every build: the reference of options from conf/, that of the commands from their
`--help`, and tables of figures from benchmarks/. A line `{{ NAME }}` of a page is the table NAME of
measured.py. Links of pages are those of the repository, such as ../../benchmarks/accuracy.md; files
of benchmarks/ lie on the site under the same name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import command_help
import measured
import option_tables
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
ROOT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
SHOWN = (
    "benchmarks/*.md",
    "benchmarks/*.json",
    "benchmarks/studies/*.html",
    "benchmarks/studies/pictures/*.svg",
    "benchmarks/searches/*/curves.png",
    "examples/*.py",
    "examples/plugin/*.py",
)
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")
TABLE = re.compile(r"^\{\{ (\w+) \}\}$", re.MULTILINE)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """The site's files: those of docs/, of SHOWN, and what is generated."""
    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for name, text in option_tables.pages(ROOT / "conf").items():
        files.append(File.generated(config, f"reference/options/{name}", content=text))
    commands = command_help.page(ROOT)
    files.append(File.generated(config, "reference/commands.md", content=commands))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page's text with its tables of figures, and links to the site's own copies."""
    filled = TABLE.sub(lambda match: measured.table(ROOT, match[1]), markdown)
    if page.file.src_uri in ROOT_PAGES:
        return filled.replace("](docs/", "](")
    return LINK.sub(lambda match: site_link(page.file.src_uri, match[1]), filled)


def site_link(page: str, link: str) -> str:
    """A link out of docs/ as one of the site, where the repository's root is the folder docs/.

    >>> site_link("how-to/own.md", "../../benchmarks/accuracy.md")
    '../benchmarks/accuracy.md'
    >>> site_link("how-to/own.md", "../concepts.md")
    '../concepts.md'
    """
    folder = posixpath.dirname(page)
    target = posixpath.normpath(posixpath.join("docs", folder, link))
    if target.startswith("docs/"):
        return link
    return posixpath.relpath(target, folder or ".")
