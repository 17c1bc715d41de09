"""Searches on the page: what search.json says, and what of it cannot be read."""

from __future__ import annotations

import json
import re
from html import unescape

import altair
import pytest

from halut.cli import main
from halut.errors import HalutError
from halut.page.columns import as_rows
from halut.page.document import document
from halut.page.gather import gather
from halut.page.pictures import specifications
from halut.page.searches import short_names
from tests.page import synthetic, synthetic_searches


@pytest.fixture
def budget(tmp_path):
    return synthetic_searches.budget(tmp_path / "budget")


@pytest.fixture
def trials(tmp_path):
    return synthetic_searches.trials(tmp_path / "trials")


def content_of(folder):
    return json.loads((folder / "search.json").read_text())


def test_every_measured_plan_is_a_point_with_the_files_figures(budget):
    page, content = gather([budget]), content_of(budget)
    (search,) = page["searches"]
    assert page["notes"] == []
    assert (page["title"], search["command"]) == ("search budget", content["command"])
    met, nearest = content["budgets"]
    own = [*content["references"], *met["random"]["plans"], *met["tried"], met["uniform"], met]
    rows = as_rows(search["plans"])
    assert len(rows) == len(own) + 1
    for row, each in zip(rows, [*own, nearest], strict=True):
        for key in ("accuracy", "lost", "rise", "predicted", "command"):
            assert row[key] == each[key]
        assert (row["bytes"], row["operations"]) == tuple(each["costs"].values())
    kinds = [row["kind"] for row in rows]
    assert kinds[:3] == ["exact", "INT8", "INT4"]
    assert kinds[3:23] == ["random"] * 20
    assert kinds[23:] == ["tried", "uniform", "found", "nearest"]
    assert rows[-2]["label"] == "found, bytes <= 100"
    assert rows[-2]["operators"] == "1 x keep, 1 x tree C=0"


def test_the_predicted_front_is_in_points_where_these_are_known(budget):
    (search,) = gather([budget])["searches"]
    front = as_rows(search["fronts"])
    assert [row["bytes"] for row in front] == [30.0, 60.0, 98.0, 400.0]
    assert [row["accuracy"] for row in front] == [None, 70.0, 85.0, 90.0]
    assert [row["rise"] for row in front] == [1.6, 1.0, 0.25, 0.0]


def test_predictions_in_points_are_no_rises(budget):
    content = {**content_of(budget), "score": "lost"}
    synthetic.write(budget / "search.json", content)
    (search,) = gather([budget])["searches"]
    assert search["figure"] == "lost"
    assert "rise" not in search["fronts"]["columns"]


def test_a_budget_has_its_run_and_what_is_beside_it(budget):
    (search,) = gather([budget])["searches"]
    met, missed = as_rows(search["budgets"])
    assert (met["val_accuracy"], met["test_accuracy"]) == (84.5, 83.25)
    beside = (met["uniform_val_accuracy"], met["uniform_test_accuracy"])
    assert beside == (82.5, 81.0)
    assert (met["uniform"], met["uniform_lost"], met["random"]) == ("tree C=4", 8.0, 20)
    assert (met["rank_correlation"], met["rank_correlation_corrected"]) == (0.875, 1.0)
    assert met["command"] == "python train.py run"
    assert missed["missing"] == "no plan: misses by 20 bytes"
    assert missed["command"] == "python train.py plan=plans/bytes_10.json"


def test_trials_have_the_files_figures(trials):
    (search,), content = gather([trials])["searches"], content_of(trials)
    rows = as_rows(search["trials"])
    own = [(study, trial) for study in content["studies"] for trial in study["trials"]]
    assert len(rows) == len(own) == 48
    for row, (study, trial) in zip(rows, own, strict=True):
        assert row["study"] == f"{study['sampler']}, seed {study['seed']}"
        assert row["number"] == trial["number"]
        assert row["state"] == ("complete" if trial["values"] else "failed")
        assert row["value"] == (trial["values"][0] if trial["values"] else None)
        assert row["bytes"] == trial["figures"].get("bytes")
        assert row["parameter:halut.C"] == trial["params"]["halut.C"]
        assert row["parameters"] == f"C={row['parameter:halut.C']} table={trial['number']}e-4"
        assert (row["seconds"], row["reason"]) == (trial["seconds"], trial["reason"])
        assert (row["best"] == "best") == (trial["number"] in study["best"])
        assert row["command"] == trial["command"]


def test_curves_and_chosen_trials_are_those_of_the_file(trials):
    (search,), content = gather([trials])["searches"], content_of(trials)
    points = [point for curve in content["curves"] for point in curve["points"]]
    rows = as_rows(search["curves"])
    assert [{key: row[key] for key in points[0]} for row in rows] == points
    assert {(row["series"], row["seeds"]) for row in rows} == {("tpe", 2), ("random", 2)}
    chosen = as_rows(search["chosen"])
    tests = [each["test_accuracy"] for each in content["chosen"]]
    assert [row["test_accuracy"] for row in chosen] == tests
    assert all(row["parameters"] for row in chosen)


def test_a_trial_over_the_budget_is_said_to_be(trials):
    content = content_of(trials)
    content["studies"][0]["trials"][0]["reason"] = "over the budget: bytes 2 > 1"
    synthetic.write(trials / "search.json", content)
    (search,) = gather([trials])["searches"]
    assert as_rows(search["trials"])[0]["state"] == "over the budget"


def test_parameters_are_short_where_that_tells_them_apart():
    names = ["model.options.depth", "optim.lr.table", "base.lr.table", "a.identity:b.c", "site:fc"]
    assert list(short_names(names).values()) == [
        *("depth", "optim.lr.table", "base.lr.table", "identity:b.c", "site:fc")
    ]


def test_runs_below_a_search_are_its_own(tmp_path, trials):
    synthetic.run(trials / "trials" / "1234")
    synthetic.run(tmp_path / "mine")
    assert gather([trials])["runs"] == []
    page = gather([tmp_path])
    assert [run["name"] for run in page["runs"]] == ["mine"]
    assert [search["name"] for search in page["searches"]] == ["trials"]
    asked = gather([trials, trials / "trials" / "1234"])
    assert [run["name"] for run in asked["runs"]] == ["1234"]


def test_searches_stand_beside_a_store(tmp_path, budget, trials):
    store = synthetic.store(tmp_path / "results", *synthetic.networks())
    page = gather([store, budget, trials, budget])
    assert [search["name"] for search in page["searches"]] == ["budget", "trials"]
    assert page["records"]["count"] == 9
    assert page["title"] == "resnet8 on fashion_mnist"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "search.json: damaged"),
        ('{"schema": 2}', "search.json: schema 2: this version reads schema 1"),
        ("{}", "search.json: without a schema: this version reads schema 1"),
        ('{"schema": 1, "kind": "x"}', "search.json: damaged: kind 'x' is none of budget, trials"),
        ('{"schema": 1, "kind": "trials", "command": "c"}', "search.json: damaged: no 'studies'"),
    ],
)
def test_what_cannot_be_read_is_a_note_or_the_error(tmp_path, budget, text, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "search.json").write_text(text)
    with pytest.raises(HalutError, match=re.escape(message)):
        gather([tmp_path / "other"])
    page = gather([budget, tmp_path / "other"])
    assert len(page["searches"]) == 1
    (note,) = page["notes"]
    assert note.startswith(f"other/{message}")


def test_a_cost_that_no_search_has_is_damage(budget):
    content = content_of(budget)
    synthetic.write(budget / "search.json", {**content, "fronts": {"x'] = 1": []}})
    with pytest.raises(HalutError, match="damaged"):
        gather([budget])


def test_without_scripts_plans_and_trials_are_tables(budget, trials):
    text = document(gather([budget, trials]))
    plain = unescape(text.split("<noscript>")[1].split("</noscript>")[0])
    assert plain.count("<tr>") == sum(
        1 + search[key]["count"]
        for search, keys in zip(
            gather([budget, trials])["searches"], (["plans"], ["chosen", "trials"]), strict=True
        )
        for key in keys
    )
    assert "<td>found, bytes <= 100</td><td>1 x keep, 1 x tree C=0</td><td>85</td>" in plain
    assert "python train.py data=digits seed=0 halut.C=" in plain


def test_charts_of_searches_are_valid_and_tell_the_rank_correlation(budget, trials):
    pictures = dict(specifications(gather([budget, trials])))
    for spec in pictures.values():
        altair.Chart.from_dict(spec).to_dict()
    assert list(pictures) == [
        *("search-budget-bytes", "search-budget-predictions-0"),
        *("search-trials-progress", "search-trials-bytes"),
    ]
    title = pictures["search-budget-predictions-0"]["title"]
    assert title == "bytes <= 100, 20 random plans: rank correlation 0.88"


def test_the_verb_counts_searches(tmp_path, budget, capsys):
    assert main(["report", str(budget), "-o", str(tmp_path / "page.html")]) == 0
    assert "0 records, 0 runs, 1 search" in " ".join(capsys.readouterr().out.split())
