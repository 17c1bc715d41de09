"""Every file of conf/ composes; mistakes are refused then; every experiment runs."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from halut.data import datasets
from halut.errors import HalutError
from halut.models.config import ModelConfig
from halut.replace.operator_registry import operator_names
from halut.training.config import logger_names
from halut.training.config import run_config as schemas
from halut.training.config.hydra_schemas import conf_dir
from halut.training.main import typed
from tests.training.measured_accuracy import measured, reported

CONF = Path(conf_dir())
GROUPS = {
    group.name: sorted(path.stem for path in group.glob("*.yaml"))
    for group in sorted(CONF.iterdir())
    if group.is_dir() and group.name != "runtime"  # of evaluations: see tests/evaluation
}
CHOICES = [(group, name) for group, names in GROUPS.items() for name in names]
EXPERIMENTS = GROUPS["experiment"]


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


def chosen(group: str, name: str) -> list[str]:
    """The override that picks one file; `any` model needs a name."""
    more = ["model.name=mobilenetv3_small_100"] if (group, name) == ("model", "any") else []
    return [f"{group}={name}", *more]


# -- every file composes ------------------------------------------------------------------------


def test_every_group_is_in_the_table_of_contents():
    defaults = OmegaConf.load(CONF / "train.yaml")["defaults"]
    named = {key for entry in defaults if OmegaConf.is_dict(entry) for key in entry}
    named |= {"hydra"}  # hydra/launcher=slurm: tests/training/test_launching.py
    assert set(GROUPS) == {key for key in named if not str(key).startswith("override")}


SCHEMAS = {
    "data": tuple(datasets[name].Config for name in datasets),
    "model": ModelConfig,
    "halut": object,  # made from the operator's options: see the test below
    "policy": schemas.PolicyConfig,
    "schedule": schemas.ScheduleConfig,
    "trainer": schemas.TrainerConfig,
    "logger": schemas.LoggerConfig,
    "debug": schemas.DebugConfig,
}


def test_every_group_has_a_schema():
    assert set(SCHEMAS) == set(GROUPS) - {"experiment", "hydra"}
    stored = ConfigStore.instance().repo
    for group in SCHEMAS:
        nodes = stored[group]["schema"]
        assert nodes, group
        for node in nodes.values():
            assert dataclasses.is_dataclass(OmegaConf.get_type(node.node)), group


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_file_composes_and_is_held_to_a_schema(group, name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # trainer=gpu asks for one
    monkeypatch.setattr(logger_names, "_installed", lambda package: True)  # as do loggers
    config = composed(*chosen(group, name))
    settings = typed(config)
    schemas.check(settings)
    plain = schemas.plain_values(settings)
    assert plain == OmegaConf.to_container(config, resolve=True)
    for each, schema in SCHEMAS.items():
        assert isinstance(getattr(settings, each), schema)
        assert dataclasses.is_dataclass(OmegaConf.get_type(config, each))


@pytest.mark.parametrize("group", SCHEMAS)
def test_a_key_added_to_a_group_is_refused(group):
    with pytest.raises(HalutError, match=f"unknown option {group}.no_such_key; choose from: "):
        typed(composed(f"+{group}.no_such_key=1"))


def test_every_operator_and_every_data_set_has_a_file():
    assert GROUPS["halut"] == operator_names()
    assert GROUPS["data"] == sorted(datasets)


# -- what the command line says wins --------------------------------------------------------------


def test_the_users_command():
    config = composed("model=resnet50", "halut.C=32")
    assert (config.model.name, config.model.source) == ("resnet50", "timm")
    assert config.model.pretrained is True
    assert (config.data.name, config.data.image_size) == ("imagenet", None)  # the weights say
    assert (config.halut.name, config.halut.C, config.halut.V) == ("tree", 32, None)


@pytest.mark.parametrize("model", GROUPS["model"])
def test_the_command_lines_data_set_wins(model):
    for order in (("data=fashion_mnist", f"model={model}"), (f"model={model}", "data=digits")):
        config = composed(*order, *chosen("model", model)[1:])
        assert f"data={config.data.name}" in order


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_command_line_wins_over_an_experiment_and_smoke_too(name):
    own = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").get("halut", {})
    other = "tree" if "boosting" in own else "decision_tree"  # which would not know its options
    overrides = (f"halut={other}", "halut.K=4", "schedule=by_sensitivity", "seed=5")
    config = composed(f"experiment={name}", "debug=smoke", *overrides, "data.batch_size=6")
    assert (config.halut.name, config.halut.K, config.seed) == (other, 4, 5)
    assert (config.schedule.order, config.data.batch_size) == ("by_sensitivity", 6)
    assert (config.base.epochs, config.model.pretrained) == (0, False)
    assert (config.schedule.epochs, config.schedule.final_epochs) == (1, None)
    assert (config.trainer.limit_train_batches, config.schedule.train_batches) == (2, None)


# -- sweeps ----------------------------------------------------------------------------------------


SWEPT = "hydra.sweeper.params"


def sweep_params(name: str) -> dict[str, list[str]]:
    """The values of every axis of an experiment that sweeps."""
    params = OmegaConf.select(OmegaConf.load(CONF / "experiment" / f"{name}.yaml"), SWEPT) or {}
    return {key: str(values).split(",") for key, values in params.items()}


SWEEPS = [name for name in EXPERIMENTS if sweep_params(name)]


def test_the_labs_experiments_are_sweeps():
    labs = {"width_sweep", "sparsity_sweep", "number_formats", "lqnet_bits", "abcnet_bases"}
    assert labs <= set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_value_of_a_sweep_composes_and_is_valid(name):
    params = sweep_params(name)
    for index in range(max(map(len, params.values()))):
        overrides = [f"{key}={values[index % len(values)]}" for key, values in params.items()]
        config = composed(f"experiment={name}", *overrides)
        settings = typed(config)
        schemas.check(settings)
        assert config.sweep.x == "halut.name" or config.sweep.x in params
        axes = {word.split("=")[0] for word in config.sweep.words}
        named = {"halut.name"} if "halut" in params else set()
        assert axes <= {*params, config.sweep.x} | named


# -- mistakes are refused when the configuration is composed --------------------------------------


@pytest.mark.parametrize("group", sorted(set(GROUPS) - {"hydra"}))
def test_an_unknown_file_is_answered_with_the_choices(group):
    with pytest.raises(HydraException) as refusal:
        composed(f"{group}=no_such_file")
    assert "no_such_file" in str(refusal.value)
    for name in GROUPS[group]:
        assert name in str(refusal.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("halut.C=abc", "halut.C"),
        ("halut.K=1.5", "halut.K"),
        ("halut.codebooks=3", "codebooks"),
        ("data.batch_size=many", "data.batch_size"),
        ("data.image_size=32", "image_size"),  # digits have no such option
        ("model.pretrained=perhaps", "model.pretrained"),
        ("policy.keep=conv1", "policy.keep"),
        ("policy.keeps=[conv1]", "keeps"),
        ("schedule.epochs=soon", "schedule.epochs"),
        ("schedule.train_batches=1.5", "schedule.train_batches"),
        ("optim.lr.table=fast", "optim.lr.table"),
        ("optim.lr.tables=1", "tables"),
        ("optim.weight_decay.bias=1", "bias"),
        ("loss.distil=1", "distil"),
        ("trainer.ema=true", "trainer.ema"),
        ("trainer.gpus=8", "gpus"),
        ("logger.every=often", "logger.every"),
        ("base.epochs=null", "base.epochs"),
        ("capture.rows=all", "capture.rows"),
        ("debug.traceback=7up", "debug.traceback"),
        ("sed=0", "sed"),
        ("seed=x", "seed"),
    ],
)
def test_a_wrong_key_or_type_is_named(override, says):
    with pytest.raises(HydraException) as refusal:
        typed(composed(override))
    assert says in str(refusal.value) + str(refusal.value.__cause__)


# -- every experiment runs ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A generated folder for every data set that reads one, by name; None for the others."""
    from tests.datasets import generate

    @functools.cache
    def folder(name: str) -> Path | None:
        write = getattr(generate, f"write_{name}", None)
        return write(tmp_path_factory.mktemp(name)) if write else None

    return folder


def smoke(name: str, folders, run: Path) -> list[str]:
    """The arguments that run an experiment in seconds: generated files, small images, narrow."""
    config = composed(f"experiment={name}")
    arguments = [f"experiment={name}", "debug=smoke", f"run_dir={run}", "trainer.accelerator=cpu"]
    arguments.append("hydra.mode=RUN")  # of a sweep, the one run of its defaults
    if "ridge" in config.halut:
        arguments.append("halut.ridge=null")  # its systems of C K equations outweigh all the rest
    root = folders(config.data.name)
    if root is not None:
        arguments.append(f"data.root={root}")
    if "width" in config.model.options:
        arguments.append("model.options.width=8")
    if config.data.name == "imagenet":
        arguments += ["data.val_fraction=0.25", "data.image_size=64", "baseline=false"]
        arguments += ["halut.K=4", "capture.samples=4"]
        if timm.get_pretrained_cfg(config.model.name).fixed_input_size:
            arguments.append("+model.options.img_size=64")
    return arguments


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs(train, folders, tmp_path, name):
    run = tmp_path / "run"
    outcome = train(*smoke(name, folders, run))
    assert outcome.code == 0, outcome.err
    report = json.loads((run / "report.json").read_text())
    plan = json.loads((run / "plan.json").read_text())
    replaced = [e["site"]["name"] for e in plan["entries"] if e["operator"] != "keep"]
    assert sorted(site["name"] for site in report["sites"]) == sorted(replaced)
    assert sorted(name for stage in report["stages"] for name in stage["sites"]) == sorted(replaced)
    assert all(site["normalized_mse"] is not None for site in report["sites"])
    assert reported(run) == pytest.approx(measured(run))
    assert (run / "bundle" / "model.safetensors").exists()
