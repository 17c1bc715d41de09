"""A small run for every schedule: the order of its stages, and what they learn and train."""

from __future__ import annotations

import json

import pytest
import torch

from halut.layers.lut import LUTLayer
from halut.sites.find import Site
from halut.sites.plan import Entry, Plan
from halut.training.config.run_config import ScheduleConfig, TrainConfig
from halut.training.planning import make_stages
from halut.training.stage import stage_recipe
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
    replaced = finished("replaced", *options, "schedule.calibrate=replaced")
    assert original.stages == replaced.stages == [list(LAST)]
    changed = moved(*(run.tensors("stage_00/swapped") for run in (original, replaced)))
    assert "stack3.conv1.lut" not in changed  # nothing in front of it was replaced
    assert "stack3.conv2.lut" in changed
    assert original.report["stages"][0]["epochs"] == 0


def test_asymmetric_tables_and_refitted_layers_are_nearer_to_the_exact_network(finished):
    options = ("schedule=all_at_once", "schedule.epochs=0", "capture.samples=64")
    alone = "schedule.refit=false"
    runs = {
        "replaced": finished(
            "replaced", *options, alone, "schedule.calibrate=replaced", only=SITES
        ),
        "asymmetric": finished("asymmetric", *options, alone, only=SITES),
        "refit": finished("refit", *options, only=SITES),
    }
    swapped = {name: run.tensors("stage_00/swapped") for name, run in runs.items()}
    kept = {site for site, entry in runs["refit"].plan.items() if entry["operator"] == "keep"}
    changed = {name.rpartition(".")[0] for name in moved(swapped["asymmetric"], swapped["refit"])}
    behind = {"fc", *(name for name in kept if name.startswith("stack3."))}
    assert kept & changed == behind
    exact = runs["refit"].tensors("base/weights")
    unchanged = [swapped["asymmetric"][f"{name}.weight"] for name in kept]
    assert all(map(torch.equal, unchanged, (exact[f"{name}.weight"] for name in kept)))
    assert "stack2.conv1.lut" not in moved(swapped["replaced"], swapped["asymmetric"])
    assert "stack2.conv2.lut" in moved(swapped["replaced"], swapped["asymmetric"])


def test_a_later_stage_keeps_what_earlier_ones_trained(finished):
    fast = ("schedule.epochs=1", "schedule.select=last", "optim.lr.rest=0.05")
    run = finished("run", *fast, only=LAST)
    states = [run.tensors(n) for n in ("base/weights", "stage_00/weights", "stage_01/swapped")]
    base, trained, swapped = (state["fc.weight"] for state in states)
    assert not torch.equal(swapped, trained)  # refitted
    assert (swapped - trained).norm() < 0.7 * (trained - base).norm()


def test_stages_have_a_batch_size_of_their_own(finished):
    options = ("schedule=all_at_once", "schedule.batch_size=256", "base.epochs=1", "baseline=true")
    run = finished("run", "trainer.limit_train_batches=null", "ptq=none", *options, only=LAST)

    def steps(note):
        return json.loads((run.path / note).read_text())["steps"]

    samples = 1294  # for training, of the digits
    assert steps("base/base.json") == samples // 16  # data.batch_size
    assert steps("stage_00/stage.json") == steps("baseline/stage.json") == samples // 256


@pytest.mark.parametrize(
    ("size", "message"),
    [("0", "schedule.batch_size must be"), ("31", "schedule.batch_size must be even with mixup")],
)
def test_batch_sizes_that_cannot_be(train, tmp_path, size, message):
    options = (f"run_dir={tmp_path / 'run'}", f"schedule.batch_size={size}", "data.mixup=0.5")
    outcome = train(*COMMON, *options)
    assert outcome.code != 0
    assert message in outcome.err


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


def test_floors_and_rates_of_the_last_stage():
    config = TrainConfig()
    config.schedule = ScheduleConfig(lr={"rest": 0.5}, final_lr={"table": 0.25}, final_floor=1.0)
    sites = [Entry(Site(name, "linear", 4, 4), "tree") for name in ("a", "b")]

    def recipes():
        stages = make_stages(config.schedule, Plan(tuple(sites)), {})
        assert [stage.sites for stage in stages] == [["a"], ["b"]]
        return [stage_recipe(config, stage, 0, []) for stage in stages]

    assert [recipe.floor for recipe in recipes()] == [config.optim.floor, 1.0]
    assert [recipe.lr["table"] for recipe in recipes()] == [config.optim.lr.table, 0.25]
    assert [recipe.lr["rest"] for recipe in recipes()] == [0.5, 0.5]
    config.schedule.floor = 0.2
    assert [recipe.floor for recipe in recipes()] == [0.2, 1.0]
    config.schedule = ScheduleConfig(stages=[{"sites": ["a"], "floor": 0}, {"sites": ["b"]}])
    assert [recipe.floor for recipe in recipes()] == [0, config.optim.floor]


def test_a_stage_without_sites_trains_on_what_is_there(train, finished):
    stages = (
        "+schedule.stages=[{sites: [], floor: 1}, {sites: [stack3.conv1]}, "
        "{sites: [], freeze: [rest]}]"
    )
    options = (stages, "schedule.select=last")
    run = finished("run", *options, only=LAST[:1])
    assert run.stages == [[], ["stack3.conv1"], []]
    assert run.plan["stack3.conv1"]["stage"] == 1
    assert [s["steps"] for s in run.report["stages"]] == [2, 2, 2]
    for stage in (0, 2):  # nothing is swapped, and no norm recalibrated
        before = run.report["stages"][stage]["val_accuracy_before"]
        assert run.report["stages"][stage]["val_accuracy_after_swap"] == before
    ended, begun = (run.tensors(f"stage_{n}") for n in ("01/weights", "02/swapped"))
    assert not moved(ended, begun)
    changed = moved(begun, run.tensors("stage_02/weights"))
    assert "stack3.conv1.lut" in changed
    assert "fc.weight" not in changed
    # Cut off after the first swap and in the middle of the last stage, it ends the same.
    whole = run.tensors("bundle/model")
    for name in ("report.json", "stage_02/stage.json", "stage_00/stage.json"):
        (run.path / name).unlink()
    again = finished("run", *options, only=LAST[:1])
    assert not moved(whole, again.tensors("bundle/model"))


def test_every_stage_begins_with_float_tables(finished, monkeypatch):
    answers = []
    by_floats = LUTLayer.trains_by_floats

    def noted(layer):
        answers.append((layer.site.name, layer.training, by_floats(layer)))
        return answers[-1][-1]

    monkeypatch.setattr(LUTLayer, "trains_by_floats", noted)
    options = ("halut.quantize_from=0.25", "schedule.epochs=2", "schedule.select=last")
    finished("run", *options)  # stages of four steps
    assert not any(floats for _, training, floats in answers if not training)
    training = [(name, floats) for name, training, floats in answers if training]
    first, second = LAST
    steps = (True, True, False, False)
    assert training == [
        *((first, floats) for floats in steps),
        *((name, floats) for floats in steps for name in (first, second)),
    ]


@pytest.mark.parametrize("encoder", ["tree", "pq"])
def test_relearn_gives_earlier_layers_new_encoders(finished, encoder):
    rates = ("+schedule.lr={rest: 0.05}", "optim.warmup=0")  # activations move at once
    options = (f"halut={encoder}", "schedule.relearn=true", "schedule.select=last", *rates)
    run = finished("run", *options)
    stages = run.report["stages"]
    assert [stage["relearned"] for stage in stages] == [[], [LAST[0]]]
    ended, begun = run.tensors("stage_00/weights"), run.tensors("stage_01/swapped")
    name = f"{LAST[0]}.encoder."
    assert any(not torch.equal(ended[k], begun[k]) for k in ended if k.startswith(name))
    assert not torch.equal(ended[f"{LAST[0]}.lut"], begun[f"{LAST[0]}.lut"])
    assert torch.equal(ended[f"{LAST[0]}.weight"], begun[f"{LAST[0]}.weight"])
    # Cut off before the second stage's swap, it ends the same.
    whole = run.tensors("bundle/model")
    for name in ("stage_01/swap.json", "stage_01/stage.json", "report.json"):
        (run.path / name).unlink()
    again = finished("run", *options)
    assert not moved(whole, again.tensors("bundle/model"))
    assert [s["relearned"] for s in again.report["stages"]] == [[], [LAST[0]]]


def test_encoders_first_then_jointly(finished):
    options = ("schedule=all_at_once", "schedule.epochs=2", "schedule.encoders_first=1")
    run = finished("run", *options, "schedule.select=last")
    assert run.stages == [list(LAST), []]
    assert [s["epochs"] for s in run.report["stages"]] == [1, 1]
    first, joint = (
        moved(run.tensors(f"stage_{n}/swapped"), run.tensors(f"stage_{n}/weights"))
        for n in ("00", "01")
    )
    assert {"stack3.conv1.lut", "stack3.conv1.encoder.thresholds", "stack3.conv1.tau"} <= first
    assert not any(name.endswith(("weight", "bias")) for name in first)
    assert {"fc.weight", "stack3.conv1.lut"} <= joint


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
    said = " ".join(outcome.err.split())
    assert f"plan={plan} was made for another network, resnet8 (width=8" in said
    assert ", and this one is resnet8 (width=16" in said
    assert "conv1 has M=16, in the plan M=8" in said
    assert not (tmp_path / "other").exists()
