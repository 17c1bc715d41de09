"""The README and the pages of docs/, their fenced blocks and what stands between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = "README.md"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str


def pages() -> list[str]:
    """The README and every page of docs/, by their paths from the root."""
    written = sorted((ROOT / "docs").rglob("*.md"))
    return [README, *(path.relative_to(ROOT).as_posix() for path in written)]


def text(page: str) -> str:
    """A page as it is written."""
    return (ROOT / page).read_text()


def blocks(language: str, page: str | None = None) -> list[Block]:
    """Fenced blocks of one language, of one page or of all."""
    found = []
    for name in [page] if page is not None else pages():
        for kind, body in re.findall(
            r"^```(\w*)\n(.*?)^```$", text(name), re.DOTALL | re.MULTILINE
        ):
            found.append(Block(name, kind, body))
    return [block for block in found if block.language == language]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)


def section(page: str, title: str) -> str:
    """A page from one heading to the next of the same level."""
    level = re.search(rf"^(#+) {re.escape(title)}$", text(page), re.MULTILINE)
    assert level is not None, f"{page} has no heading {title!r}"
    return re.split(rf"^{level[1]} ", text(page)[level.end() :], flags=re.MULTILINE)[0]
