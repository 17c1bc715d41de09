"""Options that nothing reads are refused by name, with what would make them matter."""

from __future__ import annotations

import dataclasses

import pytest

from halut.errors import HalutError
from halut.option import every, option, options_of, where, without_effect
from halut.replace.operator_registry import config_type
from halut.training.config.needs import roles
from halut.training.config.run_config import TrainConfig


@pytest.mark.parametrize(
    ("arguments", "refused", "needs"),
    [
        ("data.root=/pictures", "data.root=/pictures", "data=cifar10"),
        ("data.download=true", "data.download=true", "data=cifar10"),
        ("data.mixup_prob=0.5", "data.mixup_prob=0.5", "data.mixup"),
        ("data.crop_border=reflect", "data.crop_border=reflect", "data.crop_padding above 0"),
        ("schedule=by_block schedule.per_stage=2", "schedule.per_stage=2", "front_to_back"),
        ("schedule.blocks=[stack1]", "schedule.blocks=[stack1]", "schedule=by_block"),
        ("schedule.sensitivity_samples=9", "schedule.sensitivity_samples=9", "by_sensitivity"),
        ("schedule.epochs=0 schedule.train_batches=2", "schedule.train_batches=2", "epochs"),
        ("schedule=all_at_once schedule.final_epochs=3 schedule.epochs=2", "epochs=2", "final"),
        ("schedule.epochs=0 schedule.encoders_first=1", "encoders_first=1", "epochs above 0"),
        ("halut=integer schedule.relearn=true", "relearn=true", "parameterization=free"),
        ("schedule=all_at_once schedule.relearn=true", "relearn=true", "there is one stage"),
        ("halut=integer schedule.encoders_first=1", "encoders_first=1", "halut=tree"),
        ("+schedule.stages=[{sites:[a]}] schedule.final_floor=1", "final_floor=1", "the stages"),
        ("+schedule.stages=[{sites:[a],floor:1}] schedule.floor=1", "floor=1", "its own floor"),
        ("optim.schedule=constant schedule.floor=1", "schedule.floor=1", "optim.schedule=cosine"),
        ("+schedule.final_lr.basis=1", "schedule.final_lr.basis=1", "role basis"),
        ("schedule.epochs=0 optim.lr.table=1", "optim.lr.table=1", "schedule.epochs above 0"),
        ("schedule.epochs=0 loss.distill=0.1", "loss.distill=0.1", "schedule.epochs above 0"),
        ("loss.distill=0 loss.temperature=3", "loss.temperature=3", "loss.distill above 0"),
        ("loss.distill=0 loss.teacher=resnet9", "loss.teacher=resnet9", "loss.distill or"),
        ("loss.teacher_weights=a", "loss.teacher_weights=a", "loss.teacher=MODEL"),
        ("loss.feature_blocks=[stack1]", "loss.feature_blocks", "loss.features above 0"),
        ("halut=integer loss.reconstruction=1", "loss.reconstruction=1", "halut=tree"),
        ("halut=integer loss.commitment=1", "loss.commitment=1", "halut=tree"),
        ("optim.momentum=0.5", "optim.momentum=0.5", "optim.optimizer=sgd"),
        ("optim.schedule=constant optim.floor=0.1", "optim.floor=0.1", "optim.schedule=cosine"),
        ("optim.optimizer=Rprop optim.weight_decay.rest=1", "weight_decay", "no weight decay"),
        ("optim.schedule=OneCycleLR optim.warmup=0.1", "optim.warmup=0.1", "warmup of its own"),
        ("optim.schedule_interval=epoch", "schedule_interval=epoch", "a schedule of timm or torch"),
        ("+logger.options.prefix=a", "logger.options.prefix=a", "logger=tensorboard"),
        ("optim.lr.basis=1", "optim.lr.basis=1", "table, thresholds, temperature, rest"),
        ("halut=integer optim.lr.table=1", "optim.lr.table=1", "there are: rest"),
        ("+schedule.lr.prototypes=1", "schedule.lr.prototypes=1", "role prototypes"),
        ("model.weights=x base.epochs=3", "base.epochs=3", "model.weights"),
        ("base.epochs=0 base.lr=1", "base.lr=1", "base.epochs above 0"),
        ("base.epochs=0 baseline=false base.cache=x", "base.cache=x", "no baseline"),
        ("halut.bits=null halut.scale=layer", "halut.scale=layer", "halut.bits"),
        ("halut.bits=null halut.quantize_from=0.5", "halut.quantize_from=0.5", "halut.bits"),
        ("halut.tau=1 halut.tau_scale=2", "halut.tau_scale=2", "halut.tau is the starting"),
        ("halut.estimator=identity halut.tau_scale=2", "tau_scale=2", "another estimator"),
        ("halut.estimator=identity halut.tau=1", "halut.tau=1", "another estimator"),
        ("halut=pq halut.estimator=diveq halut.tau=1", "halut.tau=1", "another estimator"),
        ("halut=integer halut.block=8", "halut.block=8", "per=block"),
        ("halut=integer halut.fraction=4 halut.calibrate=mse", "calibrate=mse", "fraction=null"),
        ("halut=integer halut.activation.name=none halut.activation.width=4", "width=4", "float"),
        ("halut=integer halut.weight.width=4 halut.activation.width=4 halut.bias.width=4 "
         "halut.width=6", "halut.bias.width=4", "halut.bias is float"),
        ("halut=prune halut.sparsity=0 halut.method=random", "method=random", "sparsity above 0"),
        ("trainer.strategy=fsdp", "trainer.strategy=fsdp", "trainer.devices above 1"),
        ("trainer.requeue=false trainer.max_requeues=3", "max_requeues=3", "requeue=true"),
        ("logger.project=mine", "logger.project=mine", "logger=wandb"),
        ("sweep.x=halut.C", "sweep.x=halut.C", "-m"),
        ("base.epochs=0 schedule.epochs=0 logger.every=3", "logger.every=3", "base.epochs"),
        ("halut=exact capture.samples=9", "capture.samples=9", "nothing is learned"),
        ("halut=integer halut.fraction=4 capture.rows=9", "capture.rows=9", "by integer"),
        ("model=tiny_vit recalibrate=3", "recalibrate=3", "no batch norms"),
        ("policy.share=true", "policy.share=true", "the very same input"),
        ("hydra/launcher=slurm", "hydra/launcher=slurm", "-m"),
    ],
)  # fmt: skip
def test_refused_with_what_would_make_it_matter(train, tmp_path, arguments, refused, needs):
    outcome = train(*arguments.split(), f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    message, _, reason = outcome.err.partition(" has no effect: ")
    assert refused in message
    assert needs in reason
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "recalibrate=3",
        "model=tiny_vit recalibrate=0",
        "halut=integer capture.samples=9",
        "halut=exact policy.rules=[{name:stack1.conv1,operator:pq}] capture.samples=9",
        "schedule.epochs=0 logger.every=3",
        "policy.share=false",
    ],
)
def test_taken_where_it_matters(train, tmp_path, monkeypatch, arguments):
    from halut.training import run

    def stop(*arguments):
        raise HalutError("stopped")

    monkeypatch.setattr(run, "_record", stop)  # after all that refuses options
    outcome = train(*arguments.split(), f"run_dir={tmp_path / 'run'}")
    assert outcome.err == "error: stopped\n"


def test_a_plan_of_a_file_leaves_policy_and_operator_nothing_to_say(train, tmp_path):
    for argument in ("halut.K=8", "policy=everything", "policy.keep_last=false"):
        outcome = train("plan=some.json", argument, f"run_dir={tmp_path / 'run'}")
        assert outcome.code == 1
        assert f"{argument} has no effect: plan=some.json says" in outcome.err


def test_an_option_off_by_default_may_be_set_off(train, tmp_path):
    arguments = ("data.root=null", "data.download=false", "logger.entity=null")
    outcome = train(*arguments, "halut.C=1000", f"run_dir={tmp_path / 'run'}")
    assert "C must be in 1.." in outcome.err  # which is found later


def test_a_sweeps_option_has_to_matter_for_some_value(train, tmp_path):
    common = ("-m", "halut.C=1000,2000", f"run_dir={tmp_path / 'sweep'}")
    outcome = train(*common, "schedule.epochs=0", "schedule.train_batches=2")
    assert outcome.err.startswith("error: schedule.train_batches=2 has no effect: ")
    assert outcome.code == 1
    outcome = train(*common, "schedule.epochs=0,1", "schedule.train_batches=2")
    assert "no effect" not in outcome.err  # every value fails by its C


def test_rules_that_leave_the_operator_no_layer(train, tmp_path):
    rules = "policy.rules=[{name: stack1.conv1, operator: integer}, {operator: keep}]"
    outcome = train(rules, "halut.K=8", "schedule.epochs=0", f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 1
    assert "halut.K=8 has no effect: policy.rules replace every layer by integer" in outcome.err


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("tree", {"table", "thresholds", "temperature", "rest"}),
        ("pq", {"table", "prototypes", "temperature", "rest"}),
        ("integer", {"rest"}),
        ("lqnet", {"rest"}),
        ("binary_residual", {"basis", "rest"}),
    ],
)
def test_roles_are_those_that_a_layer_has(operator, expected):
    config = TrainConfig(halut=config_type(operator)())
    assert roles(config) == expected


def test_the_mechanism_asks_groups_first_and_takes_every_need():
    @dataclasses.dataclass
    class Inner:
        on: bool = option(False, "switch")
        size: int = option(1, "size", needs=where(lambda own: own.on, "it needs inner.on"))

    @dataclasses.dataclass
    class Outer:
        inner: Inner = option(Inner, "group")
        both: int = option(
            0,
            "both",
            needs=every(where(lambda own: own.inner.on, "first"), where(lambda own: False, "last")),
        )

    keys = ["inner.size", "inner.on", "both", "nothing"]
    assert without_effect(Outer(), keys) == {"inner.size": "it needs inner.on", "both": "first"}
    assert without_effect(Outer(Inner(on=True)), keys) == {"both": "last"}
    assert [each.path for each in options_of(Outer())] == ["inner.on", "inner.size", "both"]
