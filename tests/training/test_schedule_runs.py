"""A small run for every schedule: the order of its stages, and what they learn and train."""

from __future__ import annotations

import json

import pytest

from tests.training.smoke_run import COMMON, LAST, moved, runner


@pytest.fixture
def finished(train, tmp_path):
    """A run to its end in tmp_path/NAME."""
    return runner(train, tmp_path)


SITES = ("stack2.conv1", "stack2.conv2", *LAST)


def test_by_sensitivity_takes_the_least_costly_site_first(finished):
    run = finished("run", "schedule=by_sensitivity", "schedule.epochs=0", only=SITES)
    lost = json.loads((run.path / "sensitivity.json").read_text())
    assert set(lost) == set(SITES)
    assert run.stages == [[name] for name in sorted(SITES, key=lambda name: (lost[name], name))]
    assert [run.plan[names[0]]["stage"] for names in run.stages] == [0, 1, 2, 3]


def test_inner_first_ends_with_what_writes_the_residual_stream(finished):
    run = finished("run", "schedule=inner_first", "schedule.epochs=0", only=SITES)
    order = ["stack3.conv1", "stack2.conv1", "stack3.conv2", "stack2.conv2"]
    assert run.stages == [[name] for name in order]
    assert [run.plan[name]["stage"] for name in order] == [0, 1, 2, 3]


def test_by_block_takes_a_stack_a_stage(finished):
    run = finished("run", "schedule=by_block", "schedule.epochs=0", only=SITES)
    assert run.stages == [list(SITES[:2]), list(SITES[2:])]


@pytest.mark.slow
def test_back_to_front_ends_where_front_to_back_begins(finished):
    back = finished("back", "schedule=back_to_front", "schedule.epochs=0", only=SITES)
    assert back.stages == [[name] for name in reversed(SITES)]
    pairs = finished("pairs", "schedule.per_stage=3", "schedule.epochs=0", only=SITES)
    assert pairs.stages == [list(SITES[:3]), list(SITES[3:])]


def test_calibrating_on_the_original_network_learns_other_tables(finished):
    options = ("schedule=all_at_once", "schedule.epochs=0")
    original = finished("original", *options, "schedule.calibrate=original")
    replaced = finished("replaced", *options)
    assert original.stages == replaced.stages == [list(LAST)]
    changed = moved(*(run.tensors("stage_00/swapped") for run in (original, replaced)))
    assert "stack3.conv1.lut" not in changed  # nothing in front of it was replaced
    assert "stack3.conv2.lut" in changed
    assert original.report["stages"][0]["epochs"] == 0


def test_stages_written_out(finished):
    stages = (
        "+schedule.stages=[{sites: [stack3.conv2], epochs: 0},"
        "{sites: [stack3.conv1], epochs: 2, calibrate: original, lr: {table: 0.0}}]"
    )
    run = finished("run", stages, "schedule.select=last", "optim.weight_decay.table=0")
    assert run.stages == [["stack3.conv2"], ["stack3.conv1"]]
    assert [(s["epochs"], s["steps"]) for s in run.report["stages"]] == [(0, 0), (2, 4)]
    changed = moved(*(run.tensors(f"stage_01/{name}") for name in ("swapped", "weights")))
    assert "fc.weight" in changed
    assert not any(name.endswith(".lut") for name in changed)


def test_frozen_rest_stays_while_tables_learn_in_every_stage(finished):
    run = finished("run", "schedule.freeze=[rest]", "schedule.select=last", "recalibrate=0")
    for stage, site in enumerate(LAST):
        before, after = (run.tensors(f"stage_{stage:02d}/{n}") for n in ("swapped", "weights"))
        changed = moved(before, after)
        assert f"{site}.lut" in changed
        weights = {name for name in before if name.endswith(("weight", "bias"))}
        assert len(weights) > 10
        assert not changed & weights


def test_the_plan_of_an_earlier_run_is_followed(finished, tmp_path):
    first = finished("first", "halut.K=8", "schedule.epochs=0")
    plan = f"plan={first.path / 'plan.json'}"
    again = finished("again", plan, "schedule=all_at_once", "schedule.epochs=0", only=())
    assert again.stages == [list(LAST)]
    for name, entry in first.plan.items():
        for key in ("site", "operator", "options", "reason"):
            assert again.plan[name][key] == entry[key]
    assert {again.plan[name]["operator"] for name in LAST} == {"tree"}
    assert again.plan["stack3.conv1"]["options"]["K"] == 8


def test_the_plan_of_another_network_is_refused(train, finished, tmp_path):
    first = finished("first", "schedule.epochs=0")
    plan = first.path / "plan.json"
    other = ("model=resnet8", "model.options.width=16", f"plan={plan}")
    outcome = train(*COMMON, *other, f"run_dir={tmp_path / 'other'}")
    assert outcome.code == 1
    assert f"plan={plan} was made for another network" in " ".join(outcome.err.split())
    assert not (tmp_path / "other").exists()
