"""The project's own files agree: version, license, citation, changelog, and hooks."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import halut

ROOT = Path(__file__).resolve().parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_citation_names_the_version_the_license_and_the_authors():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == halut.__version__
    assert citation["license"] == "MIT"
    assert citation["authors"] == [{"name": "The halut authors"}]


@pytest.mark.skipif(find_spec("scikit_build_core") is None, reason="no scikit_build_core")
def test_metadata_takes_version_and_license_from_their_files(tmp_path):
    build = f"from scikit_build_core.build import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    folder = f"halut-{halut.__version__}"
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        stored = archive.extractfile(f"{folder}/PKG-INFO")
        assert stored is not None
        metadata = email.message_from_bytes(stored.read())
    assert metadata["Version"] == halut.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert f"{folder}/LICENSE" in names


def test_the_version_is_written_once():
    assert not re.search(r"^version\s*=", text("pyproject.toml"), re.MULTILINE)
    written = re.findall(r'^__version__ = "(.+)"$', text("halut/__init__.py"), re.MULTILINE)
    assert written == [halut.__version__]


def test_license_is_mit_by_the_authors():
    first, _, holder = text("LICENSE").splitlines()[:3]
    assert first == "MIT License"
    assert re.fullmatch(r"Copyright \(c\) \d{4} The halut authors", holder)


def test_changelog_has_an_unreleased_part_and_known_headings():
    log = text("CHANGELOG.md")
    versions = re.findall(r"^## \[(.+?)\]", log, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions[1:])
    headings = set(re.findall(r"^### (.+)$", log, re.MULTILINE))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_modules_that_the_changelog_names_as_moved_exist():
    """Cells "now" of its table, `.name` standing for the room before it."""
    rows = re.findall(r"^  \| `halut.*\| (.+) \|$", text("CHANGELOG.md"), re.MULTILINE)
    cells = [cell for cell in rows if cell.startswith("`")]
    assert len(cells) >= 5
    for cell in cells:
        room = ""
        for name in re.findall(r"`([\w.]+)`", cell):
            room = room if name.startswith(".") else name.rpartition(".")[0]
            module = room + name if name.startswith(".") else name
            assert find_spec(module) is not None, module


def test_hooks_of_other_repositories_are_pinned_to_a_version():
    repositories = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    pinned = [entry for entry in repositories if entry["repo"] != "local"]
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", entry["rev"]) for entry in pinned)
    hooks = {hook["id"] for entry in repositories for hook in entry["hooks"]}
    assert hooks >= {
        *("trailing-whitespace", "check-yaml", "check-toml", "check-added-large-files"),
        *("codespell", "ruff-check", "ruff-format", "mypy"),
    }


def test_paths_that_contributing_names_exist():
    paths = re.findall(r"(?:tests|halut|data|kernels|conf)/[\w/.]+", text("CONTRIBUTING.md"))
    paths = [path for path in paths if "NAME" not in path]
    assert len(paths) >= 5
    assert [path for path in paths if not (ROOT / path.rstrip(".")).exists()] == []
