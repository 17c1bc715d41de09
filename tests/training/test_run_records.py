"""`results=FOLDER`: every run puts its own record into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from halut.analysis.plan_cost import plan_cost
from halut.analysis.variants import variants
from halut.replace.swap import state_digest
from halut.results.store import Store
from halut.studies.cost import planned_of
from tests.training.smoke_run import COMMON, NARROW, Run

QUICK = (*COMMON, *NARROW, "schedule.epochs=0", "capture.samples=16", "halut=integer")
LAYER = "policy.only=[stack3.conv2]"


def test_a_run_and_the_values_of_a_sweep_land_in_one_store(train: Any, tmp_path: Path) -> None:
    run, sweep, results = (tmp_path / name for name in ("run", "sweep", "results"))
    assert train(*QUICK, LAYER, "halut.width=6", f"run_dir={run}").code == 0
    assert not results.exists()

    # The store is nothing that identifies a run: it is resumed, and its record follows.
    again = train(*QUICK, LAYER, "halut.width=6", f"run_dir={run}", f"results={results}")
    assert again.code == 0, again.err
    assert f"its record is in {results}" in again.out
    (record,) = Store(results).read().records
    report = Run(run).report
    assert (record.kind, record.operator, record.options["width"]) == ("run", "integer", 6)
    assert record.figures["test_accuracy"] == report["final"]["test_accuracy"]
    assert record.figures["bytes"] == report["memory"]["after"]["total"]
    assert record.figures["energy"] == report["cost"]["variants"]["plan"]["energy"] > 0
    assert record.detail["energies"] == report["cost"]["energies"]["name"] == "45nm"
    exact = report["cost"]["variants"]["exact"]
    assert record.figures["cost.variants.exact.energy"] == exact["energy"]
    weights = state_digest(load_file(run / "base" / "weights.safetensors"))
    assert record.network == {
        "model": "resnet8",
        "options": report["model"]["options"],
        "weights": weights[:16],
    }
    assert record.data["digest"] == report["data"]["digests"]["test"][:16]
    assert record.data["samples"] == 8
    assert record.settings["policy.only"] == ["stack3.conv2"]
    assert record.settings["schedule.epochs"] == 0
    assert not any(key.startswith(("results", "run_dir", "sweep")) for key in record.settings)
    assert record.context["command"] == report["command"]

    swept = ("-m", *QUICK, LAYER, "halut.width=6,8,99", f"run_dir={sweep}", f"results={results}")
    for _ in range(2):
        assert train(*swept).code == 1
        records = Store(results).read()
        # The value 6 is what the run above measured, which the store has.
        assert sorted(each.options["width"] for each in records.records) == [6, 8]
        assert records.problems == []


def test_a_sweep_writes_to_the_store_of_the_other_verbs_unless_told_otherwise(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    swept = ("-m", *QUICK, LAYER, "halut.width=6,8")
    assert train(*swept, "run_dir=none", "results=null").code == 0
    assert train(*swept, "run_dir=other", "results=elsewhere").code == 0
    assert not Path("results").exists()
    assert len(Store("elsewhere").read().records) == 2
    assert train(*swept, "run_dir=sweep").code == 0
    records = Store("results").read().records
    assert sorted(each.options["width"] for each in records) == [6, 8]
    assert all(" results=results " in each.context["command"] for each in records)


@pytest.mark.parametrize(
    "options",
    [
        ("halut=tree", "halut.C=4"),
        ("halut=integer", "halut.width=3"),
        ("halut=prune", "halut.sparsity=0.5", "halut.scope=global"),
    ],
)
def test_a_run_reports_what_halut_cost_said_before(
    train: Any, tmp_path: Path, options: tuple[str, ...]
) -> None:
    pytest.importorskip("torchao")
    run = tmp_path / "run"
    command = (*COMMON, *NARROW, "policy=conv3x3", "schedule.epochs=0", "capture.samples=16")
    outcome = train(*command, *options, "ptq=[8,4]", f"run_dir={run}")
    assert outcome.code == 0, outcome.err
    report = Run(run).report
    planned = planned_of([str(run)])
    expected = plan_cost(planned.plan, planned.network, macs_outside=planned.macs_outside)
    for cost in expected:
        assert report["cost"]["variants"][cost.variant] == cost.figures, cost.variant
    rows = {row["variant"]: row for row in variants(report)}
    assert list(rows) == ["exact", "INT8", "INT4", f"ours ({options[0][6:]})"]
    energies = [row["energy"] for row in rows.values()]
    assert energies == [cost.figures["energy"] for cost in expected]
    for name in ("int8", "int4"):
        sizes = report["ptq"][name]
        rest = report["memory"]["before"]["total"] - sizes["exact_bytes"]
        assert rows[name.upper()]["bytes"] == rest + sizes["bytes"]
    assert rows[f"ours ({options[0][6:]})"]["bytes"] == report["memory"]["after"]["total"]
    assert "energy" in outcome.out
    assert "energies: 45nm, M. Horowitz" in outcome.out


def test_a_store_that_cannot_be_written_is_told_before_anything_runs(
    train: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    outcome = train(*QUICK, f"run_dir={tmp_path / 'run'}", f"results={tmp_path / 'file'}")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {tmp_path / 'file'}: ")
    assert not (tmp_path / "run").exists()


def test_a_record_that_cannot_be_written_costs_no_run(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: Store, record: Any) -> None:
        raise OSError(28, "No space left on device", str(store.path))

    monkeypatch.setattr(Store, "append", full)
    run, results = tmp_path / "run", tmp_path / "results"
    outcome = train(*QUICK, LAYER, f"run_dir={run}", f"results={results}")
    assert outcome.code == 0
    assert f"the record of {run} is not in {results}: " in outcome.out
    assert "No space left on device" in outcome.out
    assert (run / "report.json").exists()


def test_a_run_leaves_the_test_split_unread_until_it_is_asked_for(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*QUICK, LAYER, f"run_dir={tmp_path / 'run'}", f"results={tmp_path / 'results'}")
    with monkeypatch.context() as patched:
        patched.setattr("halut.data.base.DataModule.test_dataloader", None)  # not callable
        assert train(*words, "test=false").code == 0
    report = Run(tmp_path / "run").report
    accuracies = [report[part]["test_accuracy"] for part in ("base", "baseline", "final")]
    assert accuracies == [None, None, None]
    assert report["data"]["evaluated"] == {"val": 8}
    assert train(*words, "test=false").out.count("is finished already") == 1
    (record,) = Store(tmp_path / "results").read().records
    assert (record.data["split"], record.data["samples"]) == ("val", 8)
    assert record.figures["val_accuracy"] == report["final"]["val_accuracy"]

    assert train(*words).code == 0
    again = Run(tmp_path / "run").report
    assert again["final"]["test_accuracy"] is not None
    assert again["final"]["val_accuracy"] == report["final"]["val_accuracy"]
    splits = [record.data["split"] for record in Store(tmp_path / "results").read().records]
    assert splits == ["val", "test"]
