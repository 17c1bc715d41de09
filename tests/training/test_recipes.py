"""A small run for every way to train, every encoder, and what each one changes."""

from __future__ import annotations

import pytest
import torch

from halut.models.build import build_model
from halut.models.weights import save_weights
from tests.training.smoke_run import COMMON, NARROW, distance, moved, runner


@pytest.fixture
def finished(train, tmp_path):
    """A run to its end in tmp_path/NAME."""
    return runner(train, tmp_path)


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
    options = ("halut.parameterization=derived", "halut.estimator=identity", "schedule.select=last")
    baseline_run, taught = (
        finished("held", *options),
        finished("taught", *options, "loss.reconstruction=1"),
    )
    name = "stack3.conv1.prototypes"
    for run, learns in ((baseline_run, False), (taught, True)):
        changed = moved(run.tensors("stage_00/swapped"), run.tensors("stage_00/weights"))
        assert (name in changed) == learns
        assert "stack3.conv1.weight" in changed
    assert min(taught.logged("train/reconstruction")) > 0
    assert baseline_run.logged("train/reconstruction") == []


def test_commitment_reaches_the_layers_in_front_of_a_table(finished):
    options = ("halut.parameterization=derived", "halut.estimator=identity", "schedule.select=last")
    without = finished("without", *options)
    committed = finished("committed", *options, "loss.commitment=1")
    assert without.logged("train/commitment") == []
    assert min(committed.logged("train/commitment")) > 0
    changed = moved(*(run.tensors("stage_00/weights") for run in (without, committed)))
    assert {"conv1.weight", "stack3.conv1.weight"} <= set(changed)


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
    plain, accumulated = (
        finished("plain"),
        finished("accumulated", "trainer.accumulate_grad_batches=2"),
    )
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


# -- operators and networks -----------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["tree", "decision_tree", "pq"])
def test_every_encoder_trains_and_is_reported(finished, operator):
    run = finished("run", f"halut={operator}", "halut.K=8", "schedule.select=last")
    for site in run.report["sites"]:
        assert (site["operator"], site["options"]["K"]) == (operator, 8)
        assert 1 < site["code_perplexity"] <= 8
        assert site["normalized_mse"] > 0
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
