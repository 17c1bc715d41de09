"""The page in a real browser, from disk: what it shows, and that it does so quickly.

Any error or warning on its console fails.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from halut.page.columns import as_rows
from halut.page.document import write_page
from halut.page.gather import gather
from halut.replace.policy import Rule
from halut.results.record import Record
from halut.results.store import Store
from tests.page import synthetic
from tests.page.browsing import cells

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A store, and two runs of different options."""
    folder = tmp_path_factory.mktemp("sources")
    records = (*synthetic.layers(6), *synthetic.convergence(), *synthetic.networks())
    hostile = synthetic.sensitivity(synthetic.HOSTILE, "tree", lost=float("nan"), C=8, K=16)
    synthetic.store(folder / "results", *records, hostile)
    synthetic.run(folder / "a", seed=0, test=90.0)
    synthetic.run(folder / "b", seed=1, test=91.5)
    return folder


@pytest.fixture(scope="module")
def report(sources) -> Path:
    path = sources / "report.html"
    write_page(path, gather([sources / "results", sources / "a", sources / "b"]))
    return path


def test_numbers_on_the_page_are_those_of_the_store(opened, report, sources):
    page = opened(report)
    lines = as_rows(gather([sources / "results"])["headline"])
    (best,) = [line for line in lines if line["label"] == "tree C=32"]
    rows = cells(page, "Networks of resnet8 on fashion_mnist")
    (shown,) = [row for row in rows if row["network"] == "tree C=32"]
    assert shown["test accuracy"] == f"{best['accuracy']:.2f} ± {best['accuracy_std']:.2f}"
    assert shown["points lost"] == "0.00 ± 1.00"
    assert shown["bytes"] == "32,000"
    page.get_by_label("Search Records").fill("block2.conv pq")
    records = [
        record
        for record in Store(sources / "results").read().records
        if record.site == "block2.conv" and record.operator == "pq"
    ]
    rows = cells(page, "Records")
    assert len(rows) == len(records) == 5
    for row, record in zip(rows, records, strict=True):
        assert float(row["points lost"]) == pytest.approx(record.figures["lost"], rel=1e-3)


def test_what_records_say_stays_text(opened, report):
    page = opened(report)
    assert page.title().startswith("tiny on digits")
    assert page.locator("img").count() == 0
    page.get_by_label("Search Records").fill("onerror")
    (row,) = cells(page, "Records")
    assert row["site"] == synthetic.HOSTILE
    assert "1 record has figures that are not finite" in page.locator("#notes").inner_text()


def test_a_sites_name_stays_text_in_its_drawer_and_its_rule(opened, tmp_path):
    synthetic.run(tmp_path / "run", site=synthetic.HOSTILE)
    write_page(tmp_path / "report.html", gather([tmp_path / "run"]))
    page = opened(tmp_path / "report.html")
    page.get_by_role("button", name=synthetic.HOSTILE, exact=True).click()
    drawer = page.get_by_role("dialog")
    assert drawer.locator("h2").inner_text() == synthetic.HOSTILE
    (rule,) = yaml.safe_load(drawer.locator("pre").inner_text())
    assert rule["name"] == synthetic.HOSTILE
    assert page.locator("img").count() == 0
    assert page.title() == "tiny on digits · halut"


def test_filters_choose_what_charts_and_tables_show(opened, report):
    page = opened(report)
    layers = page.locator("#layers")
    assert layers.locator('[data-count="layers"]').inner_text().startswith("60 records of 6 sites.")
    layers.locator('select[data-field="operator"]').select_option(label="pq")
    layers.locator('select[data-field="C"]').select_option(label="16")
    assert layers.locator('[data-count="layers"]').inner_text() == "6 records of 6 sites."
    page.wait_for_function("document.querySelector('[data-chart=bars]').dataset.rows === '6'")
    layers.get_by_role("button", name="Clear").click()
    assert layers.locator('[data-count="layers"]').inner_text().startswith("60 records")


def test_hovering_a_point_names_it_and_a_click_copies_its_command(opened, report):
    page = opened(report, permissions=["clipboard-read", "clipboard-write"])
    page.locator('#front select[data-field="subject"]').select_option(
        label="resnet8 on fashion_mnist"
    )
    page.locator('#front select[data-field="variant"]').select_option(label="ours")
    page.wait_for_function("document.querySelector('[data-chart=front]').dataset.rows === '3'")
    page.locator("#front").scroll_into_view_if_needed()
    points = page.locator('[data-chart="front"] .mark-symbol.role-mark path')
    page.wait_for_function(
        "document.querySelectorAll('[data-chart=front] .mark-symbol.role-mark path').length >= 3"
    )
    point = points.first  # the box is drawn anew with each filter: looked up again by each action
    point.hover(force=True)
    tip = page.locator("#vg-tooltip-element")
    tip.wait_for()
    label = tip.locator("tr").first.inner_text()
    assert "tree C=" in label
    point.click(force=True)
    page.get_by_text("Command copied").wait_for()
    C = label.split("C=")[1].strip()
    assert page.evaluate("navigator.clipboard.readText()") == f"python train.py halut.C={C} seed=0"


def test_the_cost_of_the_front_is_switched(opened, report):
    page = opened(report)
    page.get_by_role("group", name="Cost").get_by_role(
        "button", name="operations", exact=True
    ).click()
    page.wait_for_function(
        "document.querySelector('[data-chart=front]').textContent.includes('operations')"
    )
    assert page.locator("#front .panel").get_attribute("data-cost") == "operations"


def test_headings_sort(opened, report):
    page = opened(report)
    page.locator("#records").get_by_role("button", name="points lost").click()
    losses = [float(row["points lost"]) for row in cells(page, "Records")]
    assert losses == sorted(losses, reverse=True)
    head = page.locator('#records th[aria-sort="descending"]')
    assert head.inner_text().startswith("points lost")
    page.locator("#records").get_by_role("button", name="points lost").press("Enter")
    losses = [float(row["points lost"]) for row in cells(page, "Records")]
    assert losses == sorted(losses)


def test_a_site_opens_its_drawer_and_escape_closes_it(opened, report):
    page = opened(report)
    name = page.get_by_role("button", name="conv2", exact=True)
    name.focus()
    name.press("Enter")
    drawer = page.get_by_role("dialog")
    text = drawer.inner_text()
    assert "normalized error\n0.125" in text
    assert "clipping rate\n0.25" in text
    assert drawer.locator('svg[aria-label^="Code use"] rect').count() == 16
    dead = drawer.locator('svg[aria-label^="Code use"] rect[fill="none"]')
    assert dead.count() == 3
    assert drawer.locator('svg[aria-label="Tree of 3 tests"]').count() == 1
    assert "ch 0 (2, 2)" in drawer.locator('svg[aria-label="Tree of 3 tests"]').text_content()
    assert drawer.locator("canvas").count() == 4
    drawer.get_by_role("spinbutton", name="Codebook").fill("1")
    assert "Tree of codebook 1" in drawer.inner_text()
    assert "ch 1 (0, 0)" in drawer.locator('svg[aria-label="Tree of 3 tests"]').text_content()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    assert page.evaluate("document.activeElement.textContent") == "conv2"


def test_picked_sites_are_copied_as_rules(opened, report):
    page = opened(report, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Pick conv1").check()
    page.get_by_label("Pick conv2").check()
    page.locator("#sites").get_by_role("button", name="Copy as YAML").click()
    page.get_by_text("2 rules copied").wait_for()
    rules = yaml.safe_load(page.evaluate("navigator.clipboard.readText()"))
    assert [Rule(**rule).operator for rule in rules] == ["keep", "tree"]
    options = {"C": 4, "K": 4, "bits": 8, "clip": "none", "learn_rows": 1000}
    assert rules == [
        {"name": "conv1", "operator": "keep", "reason": "first layer (policy.keep_first)"},
        {"name": "conv2", "operator": "tree", "options": options},
    ]


def test_a_kept_site_says_why_and_is_found_by_it(opened, report):
    page = opened(report)
    page.get_by_label("Search Sites of a").fill("keep_first")
    (row,) = cells(page, "Sites of a")
    assert row["site"] == "conv1"
    assert row["operator"].split("\n") == ["keep", "first layer (policy.keep_first)"]


def test_what_a_site_lost_alone_is_of_the_same_operator_and_sizes(opened, tmp_path):
    network, data = {"model": "tiny"}, {"name": "digits"}
    records = [
        Record(**{**vars(record), "network": network, "data": data})
        for record in (
            synthetic.sensitivity("conv2", "tree", 0, 1.0, C=4, K=4, bits=8),
            synthetic.sensitivity("conv2", "tree", 1, 2.0, C=4, K=4, bits=8),
            synthetic.sensitivity("conv2", "tree", 0, 9.0, C=2, K=4, bits=8),
        )
    ]
    sources = [synthetic.store(tmp_path / "s", *records), synthetic.run(tmp_path / "run")]
    write_page(tmp_path / "report.html", gather(sources))
    page = opened(tmp_path / "report.html")
    assert [row["lost alone"] for row in cells(page, "Sites of run")] == ["", "1.50"]


def test_picked_options_of_a_site_are_copied_as_rules(opened, report):
    page = opened(report, permissions=["clipboard-read", "clipboard-write"])
    layers = page.locator("#layers")
    layers.get_by_label("Search Options of each site").fill("block3.conv tree C=32")
    (row,) = cells(page, "Options of each site")
    assert row["records"] == "1"
    layers.get_by_label("Pick block3.conv tree C=32 K=16 bits=8").check()
    layers.get_by_role("button", name="Copy as YAML").click()
    page.get_by_text("1 rule copied").wait_for()
    rules = yaml.safe_load(page.evaluate("navigator.clipboard.readText()"))
    options = {"C": 32, "K": 16, "bits": 8}
    assert rules == [{"name": "block3.conv", "operator": "tree", "options": options}]


def test_two_runs_are_compared_with_what_differs(opened, report):
    page = opened(report)
    table = page.locator("#comparison")
    rows = [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]
    told = {row[0]: row[1:] for row in rows}
    assert told["test accuracy, ours"] == ["90.00", "91.50"]
    assert told["halut.learn_rows"] == ["1000", "1001"]
    assert told["seed"] == ["0", "1"]
    assert "halut.K" not in told
    page.get_by_role("group", name="Runs to compare").get_by_role("button", name="b").click()
    assert page.locator("#comparison").count() == 0


def test_downloads_hold_the_data(opened, report, sources):
    page = opened(report)
    with page.expect_download() as download:
        page.locator("#records").get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    records = Store(sources / "results").read().records
    assert [float(row["lost"]) for row in rows if row["lost"]] == [
        record.figures["lost"] for record in records if record.figures.get("lost") is not None
    ]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the plan of a").click()
    plan = json.loads(Path(download.value.path()).read_text())
    assert plan == json.loads((sources / "a" / "plan.json").read_text())


def test_without_scripts_the_plain_tables_stand(opened, report):
    page = opened(report, java_script_enabled=False)
    text = page.locator("main").inner_text()
    assert "tree C=32" in text
    assert "block2.conv" in text
    assert "first layer (policy.keep_first)" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_phones_and_desks_in_both_themes(opened, report, width, scheme):
    page = opened(report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shades = [int(part) for part in background.removeprefix("rgb(").rstrip(")").split(",")]
    assert (fmean(shades) < 60) == (scheme == "dark")
    other = "dark" if scheme == "light" else "light"
    page.locator("#theme").click()
    page.wait_for_function(
        f"""[...document.querySelectorAll(".chart[data-drawn]")]
            .every((chart) => chart.dataset.drawn === "{other}")"""
    )


def test_it_prints(opened, report):
    page = opened(report)
    page.emulate_media(media="print")
    assert page.locator("#contents").is_hidden()
    assert page.locator('table[aria-label="Networks of tiny on digits"]').is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_print_says_how_many_rows_there_are_and_keeps_headings_in_place(opened, report):
    page = opened(report)
    page.emulate_media(media="print")
    counter = page.locator("#records .count")
    assert counter.is_visible()
    assert " of " in counter.inner_text()
    assert page.locator("#records .pager button").first.is_hidden()
    positions = page.locator("#records th").evaluate_all(
        "heads => heads.map((head) => getComputedStyle(head).position)"
    )
    assert set(positions) == {"static"}


UNICODE = "blöck0.\u202econv “quoted” 'single' 层 🙂"
NAMES = (
    synthetic.HOSTILE,
    "<script>document.title='taken'</script>",
    "<!-- <script> " + "very.long.name." * 30,
    UNICODE,
    "${alert(1)} `x` {{datum}} \\",
)


@pytest.mark.parametrize("width", [360, 1280])
def test_no_name_is_read_as_anything_but_text(opened, tmp_path, width):
    records = [synthetic.sensitivity(name, name, C=8, K=16) for name in NAMES]
    records += [
        Record(**{**vars(r), "network": {"model": name}, "data": {"name": name}})
        for name, r in zip(NAMES, records, strict=True)
    ]
    for index, name in enumerate(NAMES):
        synthetic.run(tmp_path / "runs" / f"run {index} <b>'\"", seed=index, site=name)
    page_of = gather([synthetic.store(tmp_path / "s", *records), tmp_path / "runs"], NAMES[1])
    write_page(tmp_path / "report.html", page_of)
    page = opened(tmp_path / "report.html", viewport={"width": width, "height": 800})
    assert page.title() == f"{NAMES[1]} · halut"
    assert page.locator("img, script:not([id]):not(:last-of-type)").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert {row["site"] for row in cells(page, "Options of each site")} == set(NAMES)
    page.locator("#sites select[data-field=run-of-sites]").select_option(index=2)
    page.locator("#sites").get_by_role("button", name="very.long.name").click()
    drawer = page.get_by_role("dialog")
    assert drawer.locator("h2").inner_text() == NAMES[2]
    assert drawer.evaluate("e => e.scrollWidth <= e.clientWidth")


@pytest.mark.parametrize(
    "records",
    [
        [synthetic.sensitivity("fc", "tree", C=8, K=16)],
        list(synthetic.convergence()),
        [synthetic.network(8, 0, 90.0)],
        [
            Record("cost", synthetic.NETWORK, synthetic.DATA, {"bytes": 8.0, "energy": 5.5e-6}),
            Record("cost", synthetic.NETWORK, synthetic.DATA, {"bytes": 4.0}, site="fc"),
        ],
        [synthetic.sensitivity("fc", "tree", lost=float("nan"))],
    ],
    ids=["one", "convergence", "network", "cost", "nan"],
)
def test_a_store_of_one_kind_is_a_page(opened, tmp_path, records):
    write_page(tmp_path / "report.html", gather([synthetic.store(tmp_path / "s", *records)]))
    page = opened(tmp_path / "report.html")
    assert len(cells(page, "Records")) == len(records)
    assert "could not show" not in page.locator("#notes").text_content()


def test_what_is_not_finite_is_said_and_not_drawn(opened, tmp_path):
    records = [synthetic.sensitivity("fc", "tree", lost=float("nan"), C=8, K=16)]
    records += [synthetic.sensitivity("conv", "tree", lost=0.0, C=8, K=16)]
    write_page(tmp_path / "report.html", gather([synthetic.store(tmp_path / "s", *records)]))
    page = opened(tmp_path / "report.html")
    shown = {row["site"]: row["points lost"] for row in cells(page, "Records")}
    assert shown == {"fc": "not finite", "conv": "0"}
    assert page.locator('[data-chart="bars"]').get_attribute("data-rows") == "1"
    assert "1 without this figure" in page.locator('[data-count="layers"]').inner_text()


def test_an_older_run_without_inspection_beside_one_of_another_network(opened, tmp_path):
    old, new = synthetic.run(tmp_path / "old"), synthetic.run(tmp_path / "new", site="head")
    (old / "inspection.json").unlink()
    shutil.rmtree(old / "bundle")
    for name in ("report.json", "plan.json"):
        content = json.loads((new / name).read_text())
        synthetic.write(new / name, {**content, "model": {"name": "other"}})
    write_page(tmp_path / "report.html", gather([old, new]))
    page = opened(tmp_path / "report.html")
    assert page.locator("h1").inner_text() == "tiny on digits, other on digits"
    assert page.locator("#headline h3").all_inner_texts() == ["tiny on digits", "other on digits"]
    page.get_by_role("button", name="conv2", exact=True).click()
    assert "were not recorded" in page.get_by_role("dialog").inner_text()


def test_energy_and_latency_are_axes(opened, tmp_path):
    record = synthetic.network(8, 0, 90.0)
    costs = {f"cost.variants.{name}.energy": 1e-6 for name in ("exact", "int8")}
    figures = {**record.figures, **costs, "energy": 1e-6, "latency": 0.002}
    dearer = Record(**{**vars(record), "figures": figures})
    write_page(tmp_path / "report.html", gather([synthetic.store(tmp_path / "s", dearer)]))
    page = opened(tmp_path / "report.html")
    for name, points in (("energy of a sample", "3"), ("latency", "1"), ("bytes", "1")):
        page.get_by_role("group", name="Cost").get_by_role("button", name=name).click()
        page.wait_for_function(
            f"document.querySelector('[data-chart=front]').dataset.rows === '{points}'"
        )
        page.wait_for_function(
            f"document.querySelector('[data-chart=front]').textContent.includes('{name}')"
        )


def test_latencies_have_a_unit(opened, tmp_path):
    record = synthetic.network(8, 0, 90.0)
    timed = Record(**{**vars(record), "figures": {**record.figures, "latency": 0.00025}})
    write_page(tmp_path / "report.html", gather([synthetic.store(tmp_path / "s", timed)]))
    page = opened(tmp_path / "report.html")
    rows = cells(page, "Networks of resnet8 on fashion_mnist")
    assert [row["latency"] for row in rows] == ["", "", "250 µs"]


def test_the_legend_of_the_front_lists_operators_and_what_is_drawn(opened, report):
    page = opened(report)
    legend = page.locator('[data-chart="front"] .role-legend-label')
    assert legend.all_text_contents() == ["exact", "exact, fine-tuned", "tree"]
    page.locator('#front select[data-field="variant"]').select_option(label="ours")
    page.wait_for_function("document.querySelector('[data-chart=front]').dataset.rows === '2'")
    assert legend.all_text_contents() == ["tree"]


def test_each_encoder_has_a_heat_map_of_its_own(opened, report):
    page = opened(report)
    names = page.locator("#layers h4:visible").all_inner_texts()
    assert names == ["tree bits=8", "pq bits=8"]
    layers = page.locator("#layers")
    layers.locator('select[data-field="operator"]').select_option(label="pq")
    assert layers.locator("h4").nth(0).is_hidden()
    assert layers.locator("h4").nth(1).is_visible()
    layers.locator('select[data-field="C"]').select_option(label="16")
    assert layers.locator("h4:visible").count() == 0
    assert "No map of one pair of C and K: pq bits=8 (C=16, K=16)" in layers.inner_text()


def test_what_a_site_cannot_have_stands_last_with_its_reason(opened, tmp_path):
    refused = Record(
        **{
            **vars(synthetic.sensitivity("a", "tree", C=99, K=16)),
            "figures": {},
            "score": None,
            "detail": {"reason": "a has 9 inputs: C must be in 1..9, got 99"},
        }
    )
    records = (refused, synthetic.sensitivity("b", "tree", C=8, K=16))
    write_page(tmp_path / "report.html", gather([synthetic.store(tmp_path / "s", *records)]))
    page = opened(tmp_path / "report.html")
    rows = cells(page, "Options of each site")
    assert [row["site"] for row in rows] == ["b", "a"]
    assert rows[1]["operator"].split("\n")[1] == "a has 9 inputs: C must be in 1..9, got 99"


@pytest.mark.parametrize("width", [360, 1180])
def test_a_wide_table_says_that_it_scrolls(opened, report, width):
    page = opened(report, viewport={"width": width, "height": 800})
    scroll = page.locator('#records [role="region"]')
    hint = page.locator("#records .wider")
    overflows = scroll.evaluate("e => e.scrollWidth > e.clientWidth + 2")
    assert hint.is_visible() == overflows
    scroll.evaluate("e => { e.scrollLeft = e.scrollWidth; }")
    hint.wait_for(state="hidden")


def test_every_column_of_sites_sorts_by_keyboard(opened, report):
    page = opened(report)
    heads = page.locator('table[aria-label="Sites of a"] button.sort')
    for head in heads.all():
        for direction in ({"ascending", "descending"},) * 2:
            before = head.locator("..").get_attribute("aria-sort")
            head.focus()
            page.keyboard.press("Space")
            after = head.locator("..").get_attribute("aria-sort")
            assert after in direction - {before}
    assert heads.count() >= 9


def test_tab_reaches_a_pick_and_space_picks_it(opened, report):
    page = opened(report)
    page.get_by_label("Search Sites of a").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        label = page.evaluate("document.activeElement.getAttribute('aria-label')")
        if label == "Pick conv1":
            break
    page.keyboard.press("Space")
    assert page.get_by_label("Pick conv1").is_checked()


def test_an_empty_store_says_so(opened, tmp_path):
    (tmp_path / "results").mkdir()
    write_page(tmp_path / "report.html", gather([tmp_path / "results"]))
    page = opened(tmp_path / "report.html")
    assert "nothing was measured yet" in page.locator("#notes").inner_text()


def test_ten_thousand_records_of_two_hundred_sites_stay_comfortable(opened, tmp_path):
    """Generous bounds: the page is built for a second, and a tenth of one for a filter."""
    store = synthetic.store(tmp_path / "results", *synthetic.layers(200, seeds=5))
    path = tmp_path / "report.html"
    write_page(path, gather([store]))
    assert path.stat().st_size < 8 << 20
    page = opened(path)
    ready = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert ready < 5000
    seconds = page.evaluate(
        """() => {
            const select = document.querySelector('#records select[data-field="operator"]');
            const begun = performance.now();
            select.value = "1";
            select.dispatchEvent(new Event("change"));
            document.querySelector("#records tbody").offsetHeight;
            return performance.now() - begun;
        }"""
    )
    assert seconds < 1000
    assert page.locator("#records .count").inner_text().endswith(" of 5,000 (10,000 in all)")


def test_two_hundred_sites_are_filtered_and_sorted(opened, tmp_path):
    path = synthetic.run(tmp_path / "run")
    plan = json.loads((path / "plan.json").read_text())
    _, replaced = plan["entries"]
    more = [
        {
            **replaced,
            "site": {**replaced["site"], "name": f"block{index}.conv"},
            "options": {**replaced["options"], "K": 4 if index % 2 else 16},
        }
        for index in range(198)
    ]
    synthetic.write(path / "plan.json", {**plan, "entries": [*plan["entries"], *more]})
    write_page(tmp_path / "report.html", gather([path]))
    page = opened(tmp_path / "report.html")
    sites = page.locator("#sites")
    assert sites.locator(".count").inner_text().endswith(" of 200")
    sites.locator('select[data-field="K"]').select_option(label="16")
    assert sites.locator(".count").inner_text().endswith(" of 99 (200 in all)")
    sites.locator("button.sort").first.click()
    names = [row["site"] for row in cells(page, "Sites of run")]
    assert names[:3] == ["block0.conv", "block2.conv", "block4.conv"]
