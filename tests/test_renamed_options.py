"""Options that have another name since version 0.1 are read under the old one, with a warning."""

from __future__ import annotations

import pytest
import yaml

from halut.option import RENAMED
from halut.training.config import renamed

GONE = "the old key goes in the next version"


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch):
    monkeypatch.setattr(renamed, "_shown", set())


@pytest.fixture
def composed(train, tmp_path):
    """The configuration that the command composes, and what it says on the standard error."""

    def compose(*arguments):
        outcome = train("--cfg", "job", "--config-dir", str(tmp_path), *arguments)
        assert outcome.code == 0, outcome.err
        return yaml.safe_load(outcome.out), outcome.err

    return compose


def written(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("optim.name=sgd", "optim.optimizer=sgd"),
        (
            "hydra.sweeper.params.trainer.clip=1,2",
            "hydra.sweeper.params.trainer.gradient_clip_val=1,2",
        ),
        ("trainer.clip=0.5", "trainer.gradient_clip_val=0.5"),
        ("+trainer.clip=0.5", "+trainer.gradient_clip_val=0.5"),
        ("++trainer.accumulate=2", "++trainer.accumulate_grad_batches=2"),
        ("~trainer.clip", "~trainer.gradient_clip_val"),
        ("trainer.clip=0.5,1.0", "trainer.gradient_clip_val=0.5,1.0"),
        ("trainer.clip='a\nb'", "trainer.gradient_clip_val='a\nb'"),
        ("trainer.clipping=1", "trainer.clipping=1"),
        ("halut.clip=mse", "halut.clip=mse"),
        ("--config-dir", "--config-dir"),
        ("run_dir=trainer.clip=1", "run_dir=trainer.clip=1"),
    ],
)
def test_overrides_get_the_new_key(typed, read, capsys):
    assert renamed.with_new_keys(["-m", typed]) == ["-m", read]
    assert capsys.readouterr().err.count(GONE) == int(typed != read)


def test_the_command_line_is_read_with_one_warning_a_key(composed):
    config, err = composed("trainer.clip=0.25", "trainer.progress=false")
    assert config["trainer"]["gradient_clip_val"] == 0.25
    assert config["trainer"]["enable_progress_bar"] is False
    assert not {"clip", "accumulate", "progress"} & set(config["trainer"])
    assert err.splitlines() == [
        f"warning: trainer.clip is now trainer.gradient_clip_val; {GONE}",
        f"warning: trainer.progress is now trainer.enable_progress_bar; {GONE}",
    ]


def test_an_experiment_of_the_user_is_read(composed, tmp_path):
    text = "# @package _global_\ntrainer: {clip: 0.25, accumulate: 2, ema: '${trainer.clip}'}\n"
    written(tmp_path / "experiment" / "mine.yaml", text)
    config, err = composed("experiment=mine")
    assert config["trainer"]["gradient_clip_val"] == 0.25
    assert config["trainer"]["accumulate_grad_batches"] == 2
    assert config["trainer"]["ema"] == "${trainer.gradient_clip_val}"
    assert err.count(GONE) == 2
    assert "experiment/mine.yaml: trainer.clip is now trainer.gradient_clip_val" in err


def test_the_command_line_wins_over_an_old_key_of_a_file(composed, tmp_path):
    written(tmp_path / "experiment" / "mine.yaml", "# @package _global_\ntrainer: {clip: 0.25}\n")
    config, _ = composed("experiment=mine", "trainer.gradient_clip_val=0.75")
    assert config["trainer"]["gradient_clip_val"] == 0.75


def test_a_file_of_a_group_is_read(composed, tmp_path):
    text = "defaults: [schema/trainer@_here_, _self_]\nclip: 0.125\n"
    written(tmp_path / "trainer" / "mine.yaml", text)
    config, err = composed("trainer=mine")
    assert config["trainer"]["gradient_clip_val"] == 0.125
    assert err.count(GONE) == 1


def test_the_values_of_a_sweep_in_a_file_are_read(train, tmp_path):
    text = "# @package _global_\nhydra: {sweeper: {params: {trainer.clip: '0.5,1.0'}}}\n"
    written(tmp_path / "experiment" / "mine.yaml", text)
    outcome = train("--cfg", "hydra", "--config-dir", str(tmp_path), "experiment=mine")
    assert outcome.code == 0, outcome.err
    params = yaml.safe_load(outcome.out)["hydra"]["sweeper"]["params"]
    assert params == {"trainer.gradient_clip_val": "0.5,1.0"}


def test_help_shows_new_names_alone(train):
    out = train("--help", "trainer").out
    for old, new in RENAMED.items():
        if new.startswith("trainer."):
            assert f"{new}=" in out
            assert f"{old}=" not in out


def test_evaluations_share_the_trainers_options(tmp_path, monkeypatch, capsys):
    from hydra.core.global_hydra import GlobalHydra

    from halut.training.evaluate import main

    GlobalHydra.instance().clear()
    argv = ["evaluate.py", "--cfg", "job", f"run={tmp_path}", "trainer.progress=false"]
    monkeypatch.setattr("sys.argv", argv)
    main()
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["trainer"]["enable_progress_bar"] is False
    assert err.count(GONE) == 1
