"""Pages in a real browser, from disk. Any error or warning on its console fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
NOISE = ("error", "warning", "assert")
"""Kinds of messages on the console that fail."""
DRAWN = """[...document.querySelectorAll(".chart")]
    .every((chart) => chart.dataset.drawn || chart.dataset.rows === "0")"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser) -> Iterator[Any]:
    """opened(path, **context): the page of a file, charts drawn; messages fail at the end."""
    errors: list[str] = []
    contexts = []

    def open_page(path: Path, **options: Any) -> Any:
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type in NOISE else None)
        page.goto(path.resolve().as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_function(DRAWN, timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
