"""The site builds strictly, without a network; what is generated says what its sources say."""

from __future__ import annotations

import dataclasses
import doctest
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import halut
from tests.docs.pages import README, ROOT, blocks, prose, text

CONF = ROOT / "conf"
FILES = [path for path in sorted(CONF.rglob("*.yaml")) if path.parent.name != "experiment"]
"""Files that are shown as tables; experiments are shown as they are written."""
EXTERNAL = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(https?:)?//", re.IGNORECASE
)


@pytest.fixture
def hooks(monkeypatch) -> Iterator[Any]:
    """`hooks(NAME)`: a module of docs/hooks."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    names = ("option_tables", "command_help", "measured", "pages", "doctests")
    yield import_module
    for name in names:
        sys.modules.pop(name, None)


def built(
    folder: Path, configuration: Path = ROOT / "mkdocs.yml"
) -> subprocess.CompletedProcess[str]:
    """A strict build into a folder; not --quiet, which drops the warnings that strict counts."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(
        [*command, "--config-file", str(configuration), "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
@pytest.mark.skipif(find_spec("mkdocstrings") is None, reason="mkdocstrings is not installed")
def test_the_site_builds_strictly_and_asks_no_other_server(tmp_path):
    done = built(tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "method.html", "reference/api.html", "reference/options/halut.html"} <= {
        page.relative_to(tmp_path / "site").as_posix() for page in pages
    }
    for page in pages:
        external = EXTERNAL.search(page.read_text())
        assert external is None, f"{page}: {external}"
    style = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.css"))
    assert not re.search(r"url\(\"?(https?:)?//", style)
    halut_page = (tmp_path / "site/reference/options/halut.html").read_text()
    assert "halut.boosting" in halut_page
    speed = (tmp_path / "site/results/speed.html").read_text()
    assert "{{" not in speed
    assert "10.2" in speed


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
@pytest.mark.parametrize("link", ["absent.md", "index.md#absent", "../absent.md"])
def test_a_broken_link_or_anchor_fails(tmp_path, link):
    """With the same settings of what is checked, on a site of one page."""
    settings = (ROOT / "mkdocs.yml").read_text()
    kept = {key: yaml.safe_load(settings)[key] for key in ("strict", "validation")}
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# One\n\n[link]({link})\n")
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({"site_name": "one", **kept}))
    done = built(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode == 1
    assert link.partition("#")[2] or link in done.stdout + done.stderr


def leaves(values: Any, path: str = "") -> dict[str, Any]:
    """Values of nested mappings by dotted keys, as YAML itself reads them."""
    if not isinstance(values, dict) or not values:
        return {path: values}
    found = {}
    for key, value in values.items():
        found |= leaves(value, f"{path}.{key}".lstrip("."))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_options_are_read_as_yaml_reads_them(hooks, path):
    """Keys and defaults against PyYAML, but for comments, which it does not keep."""
    read = hooks("option_tables").options(path.read_text())
    wanted = {
        k: v for k, v in yaml.safe_load(path.read_text()).items() if k not in ("defaults", "hydra")
    }
    by_path = {option.path: option.default for option in read}
    for key, value in wanted.items():
        sections = {k: v for k, v in by_path.items() if k.startswith(f"{key}.")}
        if not sections:
            assert yaml.safe_load(by_path[key]) == value, key
        else:
            for name, default in leaves(value, key).items():
                outer = next(k for k in (name, *parents(name)) if by_path.get(k))
                expected = value
                for part in outer.split(".")[1:]:
                    expected = expected[part]
                assert yaml.safe_load(by_path[outer]) == expected, (name, default)


def parents(name: str) -> Iterator[str]:
    """a.b, a of a.b.c."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def test_every_option_has_a_row_with_a_text(hooks):
    from halut.replace.operator_registry import config_type, operator_names
    from halut.training.config.run_config import TrainConfig

    pages = hooks("option_tables").pages(CONF)
    for name in operator_names():
        part = pages["halut.md"].split(f"## halut={name}\n")[1].split("\n## ")[0]
        for field in dataclasses.fields(config_type(name)):
            assert re.search(rf"^\| `halut\.{field.name}` \| .* \| .*\|$", part, re.MULTILINE), (
                field.name
            )
    for field in dataclasses.fields(TrainConfig):
        value = getattr(TrainConfig(), field.name)
        if field.name in ("optim", "loss", "base", "capture", "sweep", "search"):
            for option in dataclasses.fields(value):
                row = rf"^\| `{field.name}\.{option.name}` \|.*\w.*\|$"
                assert re.search(row, pages["run.md"], re.MULTILINE), option.name


def test_every_verb_has_its_help(hooks):
    verbs = hooks("command_help").verbs()
    assert {"train", "search", "report", "env"} <= set(verbs)
    assert len(verbs) == len(set(verbs)) == 14
    assert "usage: halut cost" in hooks("command_help").help_of(["cost", "--help"])


def test_every_table_of_figures_is_on_a_page(hooks):
    measured = hooks("measured")
    shown = re.findall(r"^\{\{ (\w+) \}\}$", "".join(map(text, docs_pages())), re.MULTILINE)
    assert set(shown) == set(measured.TABLES)
    for name in measured.TABLES:
        lines = measured.table(ROOT, name).splitlines()
        assert len(lines) >= 4
        assert len({line.count("|") for line in lines}) == 1, name


def docs_pages() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]


def test_figures_are_those_of_the_pages_that_benchmarks_write(hooks):
    """accuracy.md is written by another program from the same file."""
    written = (ROOT / "benchmarks" / "accuracy.md").read_text()
    for row in hooks("measured").table(ROOT, "accuracy").splitlines()[2:]:
        _, test, lost, size = (cell.strip() for cell in row.strip("| ").split(" | "))
        assert re.search(rf"\| {test} \| [^|]* \| {lost} \| {size} \|", written), row


def test_the_readme_is_short_and_has_the_headline_of_the_files(hooks):
    assert len(text(README).splitlines()) < 200
    assert hooks("measured").table(ROOT, "headline") in text(README)


def test_links_of_the_readme_and_of_contributing_exist():
    for page in (README, "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)", prose(page)):
            assert link.startswith("https://") or (ROOT / link).exists(), link


def test_the_api_has_every_public_name():
    api = text("docs/reference/api.md")
    shown = set(re.findall(r"^::: halut\.[\w.]+?\.?(\w+)$", api, re.MULTILINE)) | {
        "errors",
        "lightning",
        "nn",
    }
    assert set(halut.__all__) - {"__version__"} <= shown


def test_links_climb_out_of_docs_as_in_the_repository(hooks):
    site_link = hooks("pages").site_link
    for page in docs_pages():
        folder = (ROOT / page).parent
        for link in re.findall(r"\]\((\.\./[^)#]+)", text(page)):
            on_site = site_link(page.removeprefix("docs/"), link)
            target = (folder / link).resolve()
            if not target.is_relative_to(ROOT / "docs"):
                assert target.exists(), f"{page}: {link}"
                assert on_site != link
            else:
                assert on_site == link


def test_doctests_become_code_blocks(hooks):
    fenced = hooks("doctests").fenced
    assert fenced("No example.\n") == "No example."
    assert fenced("A.\n\n>>> f(1)\n2\n>>> g()\n3") == "A.\n\n```pycon\n>>> f(1)\n2\n>>> g()\n3\n```"


@pytest.mark.parametrize("name", ["option_tables", "measured", "pages", "doctests"])
def test_examples_of_the_hooks_run(hooks, name):
    results = doctest.testmod(hooks(name))
    assert results.attempted
    assert not results.failed


def test_blocks_are_found():
    assert len(blocks("python")) >= 10
    assert len(blocks("bash")) >= 25
