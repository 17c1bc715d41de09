"""Searches on the page in a real browser: points, commands, tables, and thousands of trials."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from halut.page.document import write_page
from halut.page.gather import gather
from tests.page import synthetic_searches
from tests.page.browsing import cells

pytestmark = pytest.mark.browser
CLIPBOARD = ["clipboard-read", "clipboard-write"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("searches")
    synthetic_searches.budget(folder / "budget")
    synthetic_searches.trials(folder / "trials")
    return folder


@pytest.fixture(scope="module")
def report(sources) -> Path:
    path = sources / "report.html"
    write_page(path, gather([sources / "budget", sources / "trials"]))
    return path


def content_of(folder):
    return json.loads((folder / "search.json").read_text())


def points(page, chart):
    return page.locator(f'[data-chart="{chart}"] .mark-symbol.role-mark path')


def click(page, point):
    """Hover and click a point; the tooltip's text, and the command that is copied."""
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    text = tip.inner_text()
    point.click(force=True)
    page.get_by_text("Command copied").wait_for()
    return text, page.evaluate("navigator.clipboard.readText()")


def test_a_plans_point_names_it_and_gives_its_command(opened, report, sources):
    page = opened(report, permissions=CLIPBOARD)
    drawn = points(page, "search-plans")
    assert drawn.count() == 3 + 20 + 1 + 1 + 1 + 1
    text, command = click(page, drawn.last)  # the nearest to the second budget
    assert command == content_of(sources / "budget")["budgets"][1]["command"]
    assert "nearest, bytes <= 10" in text
    assert "60.00" in text


def test_the_figure_of_the_front_is_switched(opened, report):
    page = opened(report)
    group = page.get_by_role("group", name="Figure of budget")
    group.get_by_role("button", name="rise of the loss").click()
    title = "document.querySelector('[data-chart=search-plans] svg').textContent.includes('rise')"
    page.wait_for_function(title)
    assert points(page, "search-plans").count() == 27


def test_the_title_of_the_predictions_has_the_rank_correlation(opened, report):
    page = opened(report, permissions=CLIPBOARD)
    title = page.locator(".panel h4", has_text="Predicted against measured")
    assert title.inner_text().endswith("20 random plans: rank correlation 0.88")
    assert points(page, "search-predictions").count() == 23
    page.get_by_role("button", name="corrected by what was measured").click()
    page.wait_for_function(
        "document.querySelector('[data-chart=search-predictions]').dataset.rows === '20'"
    )
    assert title.inner_text().endswith("rank correlation 1.00")
    page.wait_for_function(
        "document.querySelectorAll('[data-chart=search-predictions] .mark-symbol.role-mark path')"
        ".length === 20"
    )
    text, command = click(page, points(page, "search-predictions").nth(4))
    number = re.search(r"random (\d+), bytes <= 100", text)[1]
    assert command == f"python train.py plan=plans/bytes_100_random_{number}.json"
    page.get_by_role("button", name="bytes <= 10", exact=True).click()
    assert "bytes <= 10, no random plans (--random N)" in title.inner_text()


def test_a_trials_point_gives_its_command(opened, report, sources):
    page = opened(report, permissions=CLIPBOARD)
    text, command = click(page, points(page, "search-trials").first)
    first = content_of(sources / "trials")["studies"][0]["trials"][0]
    assert command == first["command"]
    assert "trial 0, tpe, seed 0" in text
    assert f"{first['values'][0]:.2f}" in text


def test_trials_are_sorted_filtered_searched_and_opened(opened, report, sources):
    page = opened(report)
    name = "Trials of trials"
    own = [t for s in content_of(sources / "trials")["studies"] for t in s["trials"]]
    table = page.locator(f'table[aria-label="{name}"]')
    table.get_by_role("button", name="validation accuracy in %").click()
    best = sorted((t["values"][0] for t in own if t["values"]), reverse=True)
    shown = [row["validation accuracy in %"] for row in cells(page, name)]
    assert shown == [f"{value:.2f}" for value in best[:20]]
    section = page.locator("#search")
    section.locator('select[data-field="state"]').select_option(label="failed")
    rows = cells(page, name)
    assert len(rows) == 8
    assert all("the loss is not finite" in row["state"] for row in rows)
    section.locator('select[data-field="state"]').select_option(label="all")
    page.get_by_label(f"Search {name}").fill("table=3e-4")
    assert [row["trial"] for row in cells(page, name)] == ["3"] * 4
    page.get_by_role("button", name="trial 3, tpe, seed 1", exact=True).press("Enter")
    drawer = page.get_by_role("dialog")
    assert drawer.locator("h2").inner_text() == "trial 3, tpe, seed 1"
    assert "python train.py data=digits seed=1 halut.C=" in drawer.inner_text()


def test_chosen_trials_have_their_test_accuracy(opened, report, sources):
    page = opened(report)
    chosen = content_of(sources / "trials")["chosen"]
    rows = cells(page, "Chosen of trials")
    assert [row["test accuracy"] for row in rows] == [
        f"{each['test_accuracy']:.2f}" for each in chosen[:20]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_is_as_wide_as_its_window(opened, report, scheme):
    page = opened(
        report, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_scripts_there_are_tables(opened, report):
    page = opened(report, java_script_enabled=False)
    text = page.locator("main").inner_text()
    assert "Trials of search trials" in text
    assert "found, bytes <= 100" in text


def test_two_thousand_trials_are_filtered_at_once(opened, tmp_path):
    """Bounds with room for a busy machine: each is several times what it takes alone."""
    synthetic_searches.trials(tmp_path / "many", count=500)
    write_page(tmp_path / "report.html", gather([tmp_path / "many"]))
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    page = opened(tmp_path / "report.html")
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert timing < 3000
    begun = time.perf_counter()
    page.locator('#search select[data-field="series"]').select_option(label="random")
    assert "of 1,000 (2,000 in all)" in page.locator("#search").inner_text()
    assert time.perf_counter() - begun < 1.5
    assert len(points(page, "search-trials").all()) > 1500
