"""What a page is made of: the numbers of the store and the run, and notes on what is odd."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest

from halut.analysis.run_figures import read_run
from halut.errors import HalutError
from halut.page.columns import as_columns, as_rows
from halut.page.gather import gather
from halut.page.shapes import sizes
from halut.results.record import Record
from halut.results.runs import record_of_run
from halut.results.store import Store
from tests.page import synthetic


def test_columns_hold_the_rows():
    rows = [{"site": "a", "lost": 0.1}, {"site": None, "lost": None}, {"site": "a", "lost": 3}]
    assert as_rows(json.loads(json.dumps(as_columns(rows)))) == rows


def test_figures_that_are_not_finite_become_none():
    table = as_columns([{"x": float("nan")}, {"x": float("inf")}, {"x": 1.0}])
    assert table["columns"]["x"]["values"] == [None, None, 1.0]


def test_figures_of_the_page_are_those_of_the_store(tmp_path):
    path = synthetic.store(tmp_path / "results", *synthetic.layers(3), *synthetic.convergence())
    rows = as_rows(gather([path])["records"])
    records = Store(path).read().records
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        assert {name: row[name] for name in record.figures} == record.figures
        assert (row["site"], row["operator"], row["seed"]) == (
            record.site,
            record.operator,
            record.seed,
        )
        assert (row["C"], row["K"]) == (record.options["C"], record.options["K"])
        assert row["calibration"] == record.calibration


def test_labels_tell_options_of_an_operator_apart(tmp_path):
    records = (
        synthetic.sensitivity("fc", "tree", C=16, K=16, boosting=0, ridge=1.0),
        synthetic.sensitivity("fc", "tree", C=16, K=16, boosting=1, ridge=1.0),
    )
    rows = as_rows(gather([synthetic.store(tmp_path / "s", *records)])["records"])
    assert [row["option"] for row in rows] == [
        "tree C=16 K=16 boosting=0",
        "tree C=16 K=16 boosting=1",
    ]


def test_the_headline_is_mean_and_deviation_over_seeds(tmp_path):
    path = synthetic.store(tmp_path / "results", *synthetic.networks())
    lines = as_rows(gather([path])["headline"])
    ours = {line["label"]: line for line in lines if line["variant"] == "ours"}
    assert list(ours) == ["tree C=32", "tree C=16", "tree C=8"]
    tests = [91.0, 92.0, 93.0]
    assert ours["tree C=32"]["accuracy"] == pytest.approx(fmean(tests))
    assert ours["tree C=32"]["accuracy_std"] == pytest.approx(stdev(tests))
    assert ours["tree C=32"]["lost"] == pytest.approx(0.0)
    assert ours["tree C=32"]["seeds"] == ours["tree C=32"]["count"] == 3
    assert ours["tree C=32"]["bytes"] == 32000.0
    exact = [line for line in lines if line["variant"] == "exact"]
    assert [line["accuracy"] for line in exact] == [92.0]


def test_energy_comes_from_the_cost_record_of_the_same_network(tmp_path):
    figures = {"bytes": 8000.0, "energy": 5.5}
    cost = Record("cost", synthetic.NETWORK, synthetic.DATA, figures, settings={"variant": "plan"})
    path = synthetic.store(tmp_path / "results", *synthetic.networks(), cost)
    lines = as_rows(gather([path])["headline"])
    energies = {line["label"]: line.get("energy") for line in lines}
    assert energies["tree C=8"] == 5.5
    assert energies["tree C=16"] is None


def test_a_run_has_its_reports_figures(tmp_path):
    page = gather([synthetic.run(tmp_path / "run")])
    (run,) = page["runs"]
    assert [row["test_accuracy"] for row in run["variants"]] == [94.0, 94.5, 90.0]
    kept, replaced = run["sites"]
    assert kept["reason"] == "first layer (policy.keep_first)"
    assert (replaced["C"], replaced["V"], replaced["K"], replaced["bytes"]) == (4, 9, 4, 400)
    assert replaced["clipping_rate"] == 0.25
    assert run["curves"]["train/loss"]["value"][0] == 2.0
    assert run["borders"] == [{"stage": "base", "step": 0}, {"stage": "stage_00", "step": 40}]
    details = run["details"]["conv2"]
    assert details["dims"] == [[0, 8], [9, 10], [20, 26], [27, 35]]
    assert details["starts"] == [0, 9, 18, 27]
    assert details["codes"]["counts"][1] == [64, 0, 0, 0]
    assert page["notes"] == []
    ours = as_rows(page["headline"])[-1]
    assert (ours["accuracy"], ours["lost"], ours["bytes"]) == (90.0, 4.0, 9000.0)


def test_runs_of_several_seeds_are_one_line(tmp_path):
    for seed in range(3):
        synthetic.run(tmp_path / f"s{seed}", test=90.0 + seed)
        config = json.loads((tmp_path / f"s{seed}" / "config.json").read_text())
        synthetic.write(tmp_path / f"s{seed}" / "config.json", {**config, "seed": seed})
        report = json.loads((tmp_path / f"s{seed}" / "report.json").read_text())
        synthetic.write(tmp_path / f"s{seed}" / "report.json", {**report, "seed": seed})
    page = gather([tmp_path])
    assert [run["name"] for run in page["runs"]] == ["s0", "s1", "s2"]
    (ours,) = [line for line in as_rows(page["headline"]) if line["variant"] == "ours"]
    assert (ours["accuracy"], ours["seeds"], ours["accuracy_std"]) == (91.0, 3, 1.0)


def test_records_of_a_run_on_the_page_count_once(tmp_path):
    run = synthetic.run(tmp_path / "run")
    record = synthetic.network(8, 0, 90.0)
    told = Record(**{**vars(record), "context": {"run": str(run)}})
    page = gather([synthetic.store(tmp_path / "results", told), run])
    assert page["records"]["count"] == 0
    assert page["notes"] == ["1 record is of a run folder on this page; each counts once"]


def test_details_of_many_runs_are_left_out_with_a_note(tmp_path):
    for seed in range(10):
        synthetic.run(tmp_path / f"s{seed}", seed=seed)
    page = gather([tmp_path])
    assert [bool(run["details"]) for run in page["runs"]] == [True] * 8 + [False] * 2
    assert any("of the first 8 runs, 2 are without" in note for note in page["notes"])


def notes_of(path: Path, *records: Record) -> list[str]:
    notes: list[str] = gather([synthetic.store(path, *records)])["notes"]
    return notes


def test_an_empty_store_is_a_page_that_says_so(tmp_path):
    (tmp_path / "results").mkdir()
    page = gather([tmp_path / "results"])
    assert page["notes"] == [
        "results: an empty store",
        "nothing was measured yet: neither a record nor a run",
    ]


def test_what_is_not_finite_is_noted(tmp_path):
    (note,) = notes_of(tmp_path / "s", synthetic.sensitivity("fc", "tree", lost=float("nan")))
    assert note.startswith("1 record has figures that are not finite, shown as empty: ")
    assert "lost (1)" in note


def test_duplicates_are_noted(tmp_path):
    record = synthetic.sensitivity("fc", "tree")
    (note,) = notes_of(tmp_path / "s", record, record)
    assert note.endswith("1 record was measured again; the newest of each counts")
    page = gather([tmp_path / "s", synthetic.store(tmp_path / "t", record)])
    assert page["records"]["count"] == 1
    assert "1 record is in several stores; each counts once" in page["notes"]


def test_another_network_and_other_weights_are_noted(tmp_path):
    record = synthetic.sensitivity("fc", "tree")
    other = Record(**{**vars(record), "network": {"model": "vit", "weights": "ff"}})
    again = Record(**{**vars(record), "network": {**synthetic.NETWORK, "weights": "ee"}})
    notes = notes_of(tmp_path / "s", record, other, again)
    assert any("several networks" in note and "vit on fashion_mnist (1)" in note for note in notes)
    assert any("records of 2 sets of weights" in note for note in notes)


def test_sites_that_the_plan_lacks_are_noted(tmp_path):
    record = synthetic.sensitivity("nowhere", "tree")
    ours = Record(**{**vars(record), "network": {"model": "tiny"}})
    page = gather([synthetic.store(tmp_path / "s", ours), synthetic.run(tmp_path / "run")])
    assert "sites that the plan of tiny does not have: nowhere (1)" in page["notes"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("report.json", "{", "failed: report.json: damaged"),
        ("plan.json", "[]", "plan.json: damaged: an object is wanted"),
        ("metrics.csv", "step,stage,key,value\nx,y,train/loss,1\n", "1 damaged lines are left out"),
        ("inspection.json", "{", "inspection.json: damaged"),
    ],
)
def test_a_damaged_run_is_shown_as_far_as_it_goes(tmp_path, name, content, message):
    path = synthetic.run(tmp_path / "run")
    (path / name).write_text(content)
    page = gather([path])
    assert len(page["runs"]) == 1
    assert any(message in note for note in page["notes"]), page["notes"]


def test_what_is_neither_store_nor_run_is_refused(tmp_path):
    with pytest.raises(HalutError, match="no such folder"):
        gather([tmp_path / "none"])
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(HalutError, match="neither a store of results"):
        gather([tmp_path])


def test_exact_networks_of_records_and_runs_are_one_line(tmp_path):
    """A record of a sweep does not tell the exact network's bytes; the run of it does."""
    record = synthetic.network(8, 0, 90.0)
    figures = {**record.figures, "exact_accuracy": 94.0}
    network, data = {"model": "tiny"}, {"name": "digits"}
    same = Record(**{**vars(record), "network": network, "data": data, "figures": figures})
    page = gather([synthetic.store(tmp_path / "s", same), synthetic.run(tmp_path / "run")])
    (exact,) = [line for line in as_rows(page["headline"]) if line["variant"] == "exact"]
    assert (exact["accuracy"], exact["bytes"], exact["count"]) == (94.0, 20000.0, 1)


def test_sizes_of_operators_come_from_their_options():
    assert sizes(None, {"V": 9, "K": 8, "bits": 8}, D=147) == {"C": 17, "V": 9, "K": 8, "bits": 8}
    assert sizes("tree", {"C": 16, "V": None}, D=144)["V"] == 9
    assert sizes(None, {"weight": {"name": "integer", "width": 4}, "width": None})["bits"] == 4
    assert sizes(None, {"weight.width": None, "width": 8})["bits"] == 8
    assert sizes(None, {"width": 8, "weight.width": 4})["bits"] == 4
    assert sizes(None, {}) == {"C": None, "V": None, "K": None, "bits": None}


def test_bits_of_number_formats_are_those_of_the_weights(tmp_path):
    weight = {"name": "integer", "width": 4}
    records = (
        synthetic.sensitivity("fc", "integer", weight=weight, contraction="dense"),
        synthetic.sensitivity("fc", "integer", weight={**weight, "width": 8}, contraction="dense"),
    )
    rows = as_rows(gather([synthetic.store(tmp_path / "s", *records)])["records"])
    assert [(row["bits"], row["option"]) for row in rows] == [
        (4, "integer weight.width=4"),
        (8, "integer weight.width=8"),
    ]


def test_integers_of_a_record_have_what_they_cost(tmp_path):
    record = synthetic.network(8, 0, 90.0)
    costs = {"exact.bytes": 4e3, "exact.bops": 9e6, "int8.bytes": 1e3, "int8.energy": 2.0}
    figures = {f"cost.variants.{name}": cost for name, cost in costs.items()}
    told = Record(**{**vars(record), "figures": {**record.figures, **figures}})
    page = gather([synthetic.store(tmp_path / "s", told)])
    lines = {line["variant"]: line for line in as_rows(page["headline"])}
    assert (lines["exact"]["bytes"], lines["exact"]["bops"]) == (4000.0, 9e6)
    assert (lines["INT8"]["bytes"], lines["INT8"]["energy"]) == (1000.0, 2.0)
    assert lines["ours"]["bytes"] == 8000.0


def test_the_record_of_a_run_is_the_same_line_as_its_folder(tmp_path):
    run = synthetic.run(tmp_path / "run")
    record = record_of_run(read_run(run))
    again = Record(**{**vars(record), "seed": 1, "context": {"run": "/elsewhere/sweep/run"}})
    page = gather([synthetic.store(tmp_path / "s", again), run])
    lines = [line for line in as_rows(page["headline"]) if line["variant"] != "INT8"]
    assert [(line["variant"], line["seeds"], line["bytes"]) for line in lines] == [
        ("exact", 2, 20000.0),
        ("exact, fine-tuned", 2, 20000.0),
        ("ours", 2, 9000.0),
    ]
    assert lines[2]["label"] == "tree"
    (row,) = as_rows(page["records"])
    assert row["run"] == "sweep/run"


def test_a_run_of_several_operators_is_not_told_as_the_default_one(tmp_path):
    record = synthetic.network(8, 0, 90.0)
    mixed = Record(**{**vars(record), "settings": {"halut.name": "tree", "plan": "plan.json"}})
    page = gather([synthetic.store(tmp_path / "s", record, mixed)])
    lines = as_rows(page["headline"])
    assert [(line["variant"], line["series"]) for line in lines] == [
        ("exact", "exact"),
        ("INT8", "INT8"),
        ("ours", "tree"),
        ("ours", "mixed"),
    ]


def test_a_family_is_all_of_an_option_but_its_sizes(tmp_path):
    records = [
        synthetic.sensitivity("fc", "tree", C=C, K=8, bits=bits) for C in (4, 8) for bits in (4, 8)
    ]
    rows = as_rows(gather([synthetic.store(tmp_path / "s", *records)])["records"])
    assert [row["family"] for row in rows] == ["tree bits=4", "tree bits=8"] * 2


def test_several_runs_of_one_seed_are_noted(tmp_path):
    synthetic.run(tmp_path / "a")
    synthetic.run(tmp_path / "b")
    assert gather([tmp_path])["notes"] == [
        "tiny on digits, tree: 2 runs of seed 0; each counts for the mean and the spread"
    ]
