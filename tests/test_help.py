"""Every option has a text; help fits two screens a group; a wrong word is answered in one line."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from halut.configs import Config
from halut.data import schemas as schemas_of_data
from halut.errors import SIGPIPE_CODE
from halut.models.config import ModelConfig
from halut.option import default_of
from halut.replace.operator_registry import config_type, operator_names
from halut.training.config.evaluate_config import EvaluateConfig
from halut.training.config.run_config import TrainConfig

GROUPS = [field.name for field in dataclasses.fields(TrainConfig)]
SCHEMAS = [
    TrainConfig,
    EvaluateConfig,
    ModelConfig,
    *schemas_of_data().values(),
    *(config_type(name) for name in operator_names()),
]
SCREENS = 2 * 28


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_option_has_a_text(schema):
    if not dataclasses.is_dataclass(schema):
        return
    for field in dataclasses.fields(schema):
        if field.name == "name" and issubclass(schema, Config):
            continue  # the operator's own name, which is chosen by halut=NAME
        assert field.metadata.get("help"), f"{schema.__name__}.{field.name}"
        default = default_of(field)
        if dataclasses.is_dataclass(default):
            test_every_option_has_a_text(type(default))


def test_the_overview_names_every_group_choice_and_how_to_go_on(train):
    out = train("--help").out
    for name in (*GROUPS, "experiment", "resnet50", "by_sensitivity", "decision_tree"):
        assert name in out
    assert "--help halut" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    "group",
    [*GROUPS, "experiment", *(f"halut={name}" for name in operator_names()), "data=imagenet"],
)
def test_a_group_is_explained_within_two_screens(train, group):
    outcome = train("--help", group)
    lines = outcome.out.splitlines()
    assert outcome.code == 0
    assert 1 <= len(lines) <= SCREENS
    name, _, choice = group.partition("=")
    if name == "halut" and choice not in ("", "exact"):
        kind = config_type(choice)
        for field in dataclasses.fields(kind):
            assert field.name == "name" or f"halut.{field.name}" in outcome.out


def test_defaults_and_choices_are_shown(train):
    out = train("--help", "loss").out
    assert "loss.distill=0.9" in out
    assert "(auto, ddp, fsdp)" in train("--help", "trainer").out
    assert "data.batch_size=64" in train("--help", "data").out  # as the file of the digits says


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("halut.c=4", "unknown option halut.c; did you mean halut.C?"),
        ("trainer.max_epochs=4", "did you mean schedule.epochs or base.epochs?"),
        ("lr=0.1", "did you mean optim.lr.rest or optim.lr.table or base.lr?"),
        ("batch_size=4", "did you mean data.batch_size?"),
        ("trainer.gpus=4", "did you mean trainer.devices?"),
        ("workers=4", "did you mean data.workers?"),
        ("schedule.epoch=4", "did you mean schedule.epochs?"),
        ("data.rot=/x", "did you mean data.root?"),
        ("optim.lr.tables=1", "did you mean optim.lr.table?"),
        ("halut.metric=l1", "halut=pq has it"),
        ("data.image_size=32", "imagenet has it"),
        ("halut.weight.widht=3", "did you mean halut.weight.width?"),
        ("modle=resnet8", "did you mean model?"),
        ("model=resnet51", "unknown model 'resnet51'; did you mean resnet50? choose one of: any,"),
        ("halut=pqq", "unknown halut 'pqq'; did you mean pq? choose one of: "),
        ("schedule.select=bset", "did you mean best? choose one of: best, last"),
        ("halut.C=abc", "halut.C=abc: Value 'abc'"),
        ("policy.keep=conv1", "policy.keep is a list: write policy.keep=[A,B]"),
        ("model=any", "model.name has no default: give model.name=VALUE"),
        ("resnet50", "'resnet50' is no option: write KEY=VALUE"),
        ("data.root=a(b", "data.root=a(b cannot be read"),
        ("--epochs=4", "unknown option --epochs: options are written KEY=VALUE; did you mean"),
        ("zzzzqqqq=1", "unknown option zzzzqqqq; python train.py --help shows what there is"),
    ],
)
def test_a_wrong_word_reports_one_error(train, argument, message):
    outcome = train(argument)
    assert outcome.code != 0
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    for advice in ("HYDRA_FULL_ERROR", "hydra.cc", "full_key", "To append"):
        assert advice not in outcome.err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("halut=tre", "unknown halut 'tre'; did you mean tree? choose one of: "),
        ("data=imagenett", "unknown data 'imagenett'; did you mean imagenet? "),
        ("polcy", "unknown group 'polcy'; did you mean policy? "),
    ],
)
def test_help_for_a_wrong_word_is_refused_in_one_line(train, asked, message):
    outcome = train("--help", asked)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert outcome.out == ""


def test_experiments_have_a_page_of_their_own(train):
    outcome = train("--help", "experiment")
    assert outcome.code == 0
    assert "experiment=width_sweep" in outcome.out
    assert len(outcome.out.splitlines()) <= SCREENS
    assert max(map(len, outcome.out.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [("-m", "halut.cli", "env"), ("train.py", "--help")])
def test_a_closed_pipe_ends_a_command_without_output(arguments, tmp_path):
    read, write = os.pipe()
    os.close(read)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, *arguments], stdout=write, stderr=subprocess.PIPE, cwd=root, text=True
    )
    os.close(write)
    assert done.returncode == SIGPIPE_CODE
    assert done.stderr == ""
