"""report.html as a file: whole, escaped, with and without the package that draws."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import altair
import pytest

from halut.cli import main
from halut.errors import HalutError
from halut.page import charts, vega
from halut.page.columns import as_rows
from halut.page.document import document, in_script, write_page
from halut.page.gather import gather
from halut.page.pictures import specifications, write_pictures
from halut.page.plain import run_tables
from halut.results.record import Record
from tests.page import synthetic


class Elements(HTMLParser):
    """Tags of a document, and the text of each script by its id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._script = dict(attrs).get("id", "own") if tag == "script" else None

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


@pytest.fixture
def hostile(tmp_path) -> Path:
    return synthetic.store(tmp_path / "results", synthetic.sensitivity(synthetic.HOSTILE, "tree"))


def test_texts_of_records_stay_texts(hostile):
    text = document(gather([hostile]))
    elements = Elements(text)
    assert "img" not in elements.tags
    assert elements.tags.count("script") == 3
    page = json.loads(elements.scripts["page-data"])
    assert [row["site"] for row in as_rows(page["records"])] == [synthetic.HOSTILE]


def test_json_in_a_script_is_the_same_json():
    content = {"a": "</script><!-- \u2028 <b>"}
    text = in_script(json.dumps(content, ensure_ascii=False))
    assert "<" not in text
    assert json.loads(text) == content


def test_nothing_is_fetched(tmp_path):
    page = gather([synthetic.run(tmp_path / "run")])
    text = document(page)
    assert not re.search(r"(src|href)=.(https?:)?//", text)
    assert "@import" not in text
    assert "url(" not in text


def test_the_scripts_of_charts_are_packed_and_left_out_where_nothing_is_drawn(tmp_path):
    library = "window.vegaEmbed = 0; // </script>" * 50
    text = document(gather([synthetic.run(tmp_path / "run")]), library)
    script = Elements(text).scripts["chart-library"]
    assert gzip.decompress(base64.b64decode(script)).decode() == library
    assert len(script) < len(library)
    (tmp_path / "empty").mkdir()
    empty = Elements(document(gather([tmp_path / "empty"]), library))
    assert "chart-library" not in empty.scripts


def test_a_plain_table_is_there_without_scripts(tmp_path):
    page = gather([synthetic.store(tmp_path / "s", *synthetic.networks())])
    plain = document(page).split("<noscript>")[1].split("</noscript>")[0]
    assert "<td>tree C=32</td><td>92</td>" in plain
    assert plain.count("<tr>") == 2 + len(as_rows(page["headline"])) + page["records"]["count"]


def test_the_same_sources_make_the_same_page_wherever_they_lie(tmp_path, monkeypatch):
    """Bytes of a page that the repository ships: no time, no order of chance, no path."""
    here, there = tmp_path / "here", tmp_path / "there" / "deeper"
    records = (*synthetic.layers(2), *synthetic.convergence(), *synthetic.networks())
    synthetic.store(here / "results", *records, records[0])
    with next((here / "results").glob("*.jsonl")).open("a") as file:
        file.write("torn")
    synthetic.run(here / "runs" / "a")
    synthetic.run(here / "runs" / "b", seed=1)
    shutil.copytree(here, there)
    os.utime(there / "runs" / "a" / "report.json", (0, 0))
    pages = []
    for folder in (here, there):
        config = folder / "runs" / "a" / "config.json"
        content = json.loads(config.read_text())
        moved = {**content, "run_dir": str(config.parent), "results": str(folder / "results")}
        synthetic.write(config, moved)
        write_page(folder / "report.html", gather([folder / "results", folder / "runs"]))
        pages.append((folder / "report.html").read_bytes())
    monkeypatch.chdir(there)
    write_page(Path("again.html"), gather([Path("results"), Path("runs")]))
    pages.append(Path("again.html").read_bytes())
    assert pages[0] == pages[1] == pages[2]
    assert str(tmp_path).encode() not in pages[0]
    assert b"measured again" in pages[0]


def test_without_the_package_tables_are_written_and_one_line_says_what_to_install(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    path = synthetic.store(tmp_path / "s", *synthetic.networks())
    assert main(["report", str(path), "-o", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "pip install &#x27;halut[page]&#x27;" in text
    assert "tree C=32" in text
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("pip install 'halut[page]'") == 1
    assert main(["report", str(path), "--pictures", str(tmp_path)]) == 1


def test_the_verb_writes_one_file_and_names_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 1
    assert "results: no such folder of results or runs" in capsys.readouterr().err
    synthetic.store(Path("results"), *synthetic.networks())
    assert main(["report"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results"]


def test_charts_are_valid_vega_lite(tmp_path):
    records = (*synthetic.layers(2), *synthetic.convergence(), *synthetic.networks())
    page = gather([synthetic.store(tmp_path / "s", *records), synthetic.run(tmp_path / "run")])
    names = []
    for name, spec in specifications(page):
        altair.Chart.from_dict(spec).to_dict()
        names.append(name)
    assert {"front-bytes", "front-operations", "sensitivity", "codebooks-tree-bits-8"} <= set(names)
    assert {"convergence", "stages", "curve-train-loss", "curve-val-accuracy"} <= set(names)


def test_the_front_tells_operators_apart_and_lists_only_what_is_drawn(tmp_path):
    pq = Record(**{**vars(synthetic.network(8, 0, 80.0)), "settings": {"halut.name": "pq"}})
    page = gather([synthetic.store(tmp_path / "s", *synthetic.networks(), pq)])
    fronts = {name: spec for name, spec in specifications(page) if name.startswith("front-")}
    encoding = fronts["front-bytes"]["layer"][-1]["encoding"]
    assert encoding["color"]["legend"]["values"] == ["pq", "tree"]  # no bytes of the exact one
    for channel in ("color", "shape"):
        (scale,) = {
            json.dumps(s["layer"][-1]["encoding"][channel]["scale"]) for s in fronts.values()
        }
        assert json.loads(scale) == encoding[channel]["scale"]
        scale = encoding[channel]["scale"]
        of = dict(zip(scale["domain"], scale["range"], strict=True))
        assert of["tree"] != of["pq"]


def test_more_operators_than_colors_have_marks_of_their_own():
    names = [f"operator{place}" for place in range(20)]
    colors, shapes = charts.series_scales([*names, "INT8"])
    marks = list(zip(colors["range"], shapes["range"], strict=True))
    assert len(set(marks)) == len(marks) == len(colors["domain"]) == 24


def test_heat_maps_are_of_one_encoder_each(tmp_path):
    records = [
        synthetic.sensitivity("fc", operator, 0, lost, C=C, K=16, bits=bits)
        for operator, lost in (("tree", 1.0), ("pq", 3.0))
        for C, bits in ((8, 8), (16, 8), (8, 4))
    ]
    page = gather([synthetic.store(tmp_path / "s", *records)])
    maps = {n: spec["data"]["values"] for n, spec in specifications(page) if "codebooks" in n}
    assert sorted(maps) == ["codebooks-pq-bits-8", "codebooks-tree-bits-8"]
    assert {row["operator"] for row in maps["codebooks-pq-bits-8"]} == {"pq"}


def test_palettes_have_as_many_colors():
    assert len(vega.PALETTES["light"]) == len(vega.PALETTES["dark"]) == 8


@pytest.mark.slow
def test_pictures_are_written_in_every_format(tmp_path):
    path = synthetic.store(tmp_path / "s", *synthetic.networks())
    arguments = ["report", str(path), "-o", str(tmp_path / "p.html")]
    assert main([*arguments, "--pictures", str(tmp_path / "figures")]) == 0
    figures = tmp_path / "figures"
    assert (figures / "front-bytes.svg").read_text().startswith("<svg")
    assert (figures / "front-bytes.pdf").read_bytes().startswith(b"%PDF")
    assert (figures / "front-bytes.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--pictures", str(figures), "--formats", "gif"]) == 1


def test_another_format_of_pictures_is_refused(tmp_path):
    with pytest.raises(HalutError, match="svg"):
        write_pictures(tmp_path, gather([synthetic.run(tmp_path / "run")]), ["gif"])


def test_tables_for_loggers_hold_the_reports_figures(tmp_path):
    path = synthetic.run(tmp_path / "run")
    report, plan = (json.loads((path / name).read_text()) for name in ("report.json", "plan.json"))
    tables = run_tables(report, plan)
    columns, rows = tables["sites"]
    assert [row[columns.index("site")] for row in rows] == ["conv1", "conv2"]
    assert rows[1][columns.index("normalized error")] == 0.125
    columns, rows = tables["networks"]
    assert [row[columns.index("test accuracy in %")] for row in rows] == [94.0, 94.5, 90.0]
    assert tables["stages"][1] == [[0, "conv2", 95.0, 70.0, 90.0]]
