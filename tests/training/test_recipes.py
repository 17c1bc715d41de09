"""Whole runs of a few steps on the digits, one for every way to train, and what each one changes.

All share a narrow ResNet-8 with random weights whose last two 3x3 convolutions are replaced.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from halut.models.build import build_model
from halut.models.weights import save_weights

NARROW = ("model=resnet8", "model.options.width=8")
LAST = ("stack3.conv1", "stack3.conv2")
COMMON = (
    "debug=smoke",
    "debug.traceback=false",
    "data.batch_size=16",
    "capture.samples=64",
    "baseline=false",
    "logger.every=1",
    "trainer.accelerator=cpu",
)


@dataclass
class Run:
    """The folder of a finished run."""

    path: Path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.path / "report.json").read_text())

    @property
    def plan(self) -> dict[str, dict[str, Any]]:
        """Entries by site."""
        plan = json.loads((self.path / "plan.json").read_text())
        return {entry["site"]["name"]: entry for entry in plan["entries"]}

    @property
    def stages(self) -> list[list[str]]:
        return [stage["sites"] for stage in self.report["stages"]]

    def logged(self, key: str) -> list[float]:
        with (self.path / "metrics.csv").open() as file:
            return [float(row["value"]) for row in csv.DictReader(file) if row["key"] == key]

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.path / f"{name}.safetensors")


@pytest.fixture
def finished(train, tmp_path):
    """Run `python train.py` with the common options and those given, once, to its end."""

    def run(name: str, *arguments: str, only: tuple[str, ...] = LAST, model=NARROW) -> Run:
        sites = [f"policy.only=[{','.join(only)}]"] if only else []
        outcome = train(*COMMON, f"run_dir={tmp_path / name}", *model, *sites, *arguments)
        assert outcome.code == 0, outcome.err
        return Run(tmp_path / name)

    return run


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that differ."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def distance(a: dict[str, Tensor], b: dict[str, Tensor], name: str) -> float:
    return float((a[name].double() - b[name].double()).norm())


# -- losses ---------------------------------------------------------------------------------------


def test_features_of_the_blocks_are_compared_and_pull(finished):
    without = finished("without", "loss.distill=0")
    compared = finished("features", "loss.distill=0", "loss.features=1")
    assert without.logged("train/features") == []
    assert len(compared.logged("train/features")) == 4  # two stages of two steps
    assert min(compared.logged("train/features")) > 0
    loss = compared.logged("train/loss")[0]
    parts = compared.logged("train/cross_entropy")[0] + compared.logged("train/features")[0]
    assert loss == pytest.approx(parts, rel=1e-4)
    assert "fc.weight" in moved(*(r.tensors("stage_01/weights") for r in (without, compared)))


def test_prototypes_of_derived_tables_learn_from_the_reconstruction_alone(finished):
    options = ("halut.parameterisation=derived", "halut.estimator=identity", "schedule.select=last")
    held, taught = finished("held", *options), finished("taught", *options, "loss.reconstruction=1")
    name = "stack3.conv1.prototypes"
    for run, learns in ((held, False), (taught, True)):
        changed = moved(run.tensors("stage_00/swapped"), run.tensors("stage_00/weights"))
        assert (name in changed) == learns
        assert "stack3.conv1.weight" in changed
    assert min(taught.logged("train/reconstruction")) > 0
    assert held.logged("train/reconstruction") == []


def test_another_teacher_answers_from_its_own_weights(finished, tmp_path):
    torch.manual_seed(7)
    weights = tmp_path / "teacher.safetensors"
    save_weights(weights, build_model("resnet20", 10, 1).state_dict())
    teacher = ("loss.teacher=resnet20", f"loss.teacher_weights={weights}")
    itself, other = finished("itself"), finished("other", *teacher)
    # The same batch in both; the network is nearly its own teacher, and no other's.
    assert itself.logged("train/distillation")[0] != other.logged("train/distillation")[0]
    assert other.report["configuration"]["loss"]["teacher"] == "resnet20"
    first = [run.logged("train/cross_entropy")[0] for run in (itself, other)]
    assert first[0] == pytest.approx(first[1])


def test_a_teacher_that_cannot_be_had_is_refused_at_once(train, tmp_path):
    outcome = train(*COMMON, *NARROW, f"run_dir={tmp_path / 'run'}", "loss.teacher=resnet20")
    assert outcome.code == 1
    assert "resnet20 has no published weights: give loss.teacher_weights=FILE" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+schedule.lr.tables=1", "schedule.lr: unknown role 'tables'"),
        ("schedule.freeze=[all]", "schedule.freeze: unknown role 'all'"),
        ("loss.feature_blocks=[stack4]", "loss.feature_blocks: the network has no module 'stack4'"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_at_once(train, tmp_path, override, says):
    arguments = (*COMMON, *NARROW, f"run_dir={tmp_path / 'run'}", "loss.features=1", override)
    outcome = train(*arguments)
    assert outcome.code == 1
    assert says in " ".join(outcome.err.split())
    assert not (tmp_path / "run").exists()


# -- the trainer ----------------------------------------------------------------------------------


def test_averaged_weights_lag_behind(finished):
    last = "schedule.select=last"
    plain, averaged = finished("plain", last), finished("ema", last, "trainer.ema=0.9")
    for name in ("stack3.conv1.lut", "fc.weight"):
        start = plain.tensors("stage_00/swapped")
        steps = distance(start, plain.tensors("stage_00/weights"), name)
        assert 0 < distance(start, averaged.tensors("stage_00/weights"), name) < steps


def test_accumulated_batches_make_one_step(finished):
    plain, accumulated = finished("plain"), finished("accumulated", "trainer.accumulate=2")
    assert [stage["steps"] for stage in plain.report["stages"]] == [2, 2]
    assert [stage["steps"] for stage in accumulated.report["stages"]] == [1, 1]
    changed = moved(*(accumulated.tensors(f"stage_00/{n}") for n in ("swapped", "weights")))
    assert "stack3.conv1.lut" in changed


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights(finished):
    plain, mixed = finished("plain"), finished("mixed", "trainer.precision=bf16-mixed")
    losses = [run.logged("train/loss") for run in (plain, mixed)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    weights = mixed.tensors("stage_01/weights")
    assert {t.dtype for t in weights.values() if t.is_floating_point()} == {torch.float32}


def test_mixup_reaches_the_loss(finished):
    plain = finished("plain", "loss.distill=0")
    mixed = finished("mixed", "loss.distill=0", "data.mixup=0.8", "data.cutmix=1.0")
    assert mixed.report["data"]["settings"]["mixup"] == 0.8
    assert plain.logged("train/loss")[0] != mixed.logged("train/loss")[0]
    # Validation is never mixed: the first stage starts from the same network on the same images.
    same = [run.report["stages"][0]["val_accuracy_after_swap"] for run in (plain, mixed)]
    assert same[0] == same[1]


# -- schedules ------------------------------------------------------------------------------------

SITES = ("stack2.conv1", "stack2.conv2", *LAST)


def test_by_sensitivity_takes_the_least_costly_site_first(finished):
    run = finished("run", "schedule=by_sensitivity", "schedule.epochs=0", only=SITES)
    lost = json.loads((run.path / "sensitivity.json").read_text())
    assert set(lost) == set(SITES)
    assert run.stages == [[name] for name in sorted(SITES, key=lambda name: (lost[name], name))]
    assert [run.plan[names[0]]["stage"] for names in run.stages] == [0, 1, 2, 3]


def test_by_block_takes_a_stack_a_stage(finished):
    run = finished("run", "schedule=by_block", "schedule.epochs=0", only=SITES)
    assert run.stages == [list(SITES[:2]), list(SITES[2:])]


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
    again = finished(
        "again", plan, "halut=pq", "schedule=all_at_once", "schedule.epochs=0", only=()
    )
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


# -- operators and networks -----------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["tree", "decision_tree", "pq"])
def test_every_encoder_trains_and_is_reported(finished, operator):
    run = finished("run", f"halut={operator}", "halut.K=8", "schedule.select=last")
    for site in run.report["sites"]:
        assert (site["operator"], site["options"]["K"]) == (operator, 8)
        assert 1 < site["code_perplexity"] <= 8
        assert site["normalised_mse"] > 0
    assert run.report["cost"]["replaced"]["macs"] < run.report["cost"]["exact"]["macs"]
    changed = moved(*(run.tensors(f"stage_00/{name}") for name in ("swapped", "weights")))
    learned = "prototypes" if operator == "pq" else "thresholds"
    assert {f"stack3.conv1.{part}" for part in ("lut", "tau", f"encoder.{learned}")} <= changed


def test_exact_operators_change_nothing(finished):
    run = finished("run", "halut=exact", "schedule.epochs=0", "recalibrate=0")
    report = run.report
    assert report["final"]["test_accuracy"] == report["base"]["test_accuracy"]
    assert report["cost"]["replaced"]["macs"] == report["cost"]["exact"]["macs"]


def test_the_linear_layers_of_a_transformer(finished):
    vit = ("model=tiny_vit", "model.options={patch: 2, dim: 16, depth: 2, heads: 2}")
    run = finished("run", "policy=linear", "schedule=by_block", "halut=pq", only=(), model=vit)
    blocks = [
        [f"blocks.{i}.{part}" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
        for i in range(2)
    ]
    assert run.stages == blocks
    assert run.plan["patch_embed.proj"]["operator"] == "keep"
    assert run.plan["head"]["reason"] == "last layer (policy.keep_last)"
    assert run.plan["blocks.0.attn.qkv"]["site"]["rows"] == 16  # tokens, not samples
