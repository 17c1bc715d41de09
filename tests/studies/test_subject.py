"""What a study is about, composed as a run composes it."""

from __future__ import annotations

import json

import pytest
import torch

from halut.errors import HalutError
from halut.studies.subject import Subject, compose, context
from halut.training.config.run_config import plain_values
from halut.training.run_folder import save_network

DIGITS = ["data=digits", "data.train_samples=200", "base.epochs=1"]


def test_overrides_give_a_configuration_as_train_py_does():
    config = compose(["model=resnet8", "halut=pq", "halut.K=8", "policy=conv3x3"])
    assert (config.model.name, config.halut.name, config.halut.K) == ("resnet8", "pq", 8)
    assert config.policy.rules[0]["kernel"] == [3, 3]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["halut.K=300"], "2..256"),
        (["nope=3"], "unknown option nope"),
        (["model=resnet999"], "did you mean"),
        (["halut.K=8,16"], "halut.K=8,16: one value is wanted here"),
        (["halut.K=["], "halut.K="),
        (["nowhere"], "neither a run folder nor an option"),
        (["schedule.train_batches=3", "schedule.epochs=0"], "has no effect"),
    ],
)
def test_what_cannot_be_composed_is_told_in_one_line(overrides, message):
    with pytest.raises(HalutError, match=message) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)


def test_a_run_folder_gives_its_own_configuration(tmp_path):
    config = compose(["halut=pq", "halut.K=8", "data.train_samples=100"])
    (tmp_path / "config.json").write_text(json.dumps(plain_values(config)))
    assert plain_values(compose([str(tmp_path)])) == plain_values(config)
    with pytest.raises(HalutError, match=r"leave halut\.K=4"):
        compose([str(tmp_path), "halut.K=4"])


def test_a_damaged_run_folder_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"data": {"name": "nope"}, "model": {}, "halut": {}}')
    with pytest.raises(HalutError, match="unknown data set 'nope'"):
        compose([str(tmp_path)])


def test_the_same_overrides_give_the_same_subject(tmp_path):
    overrides = [*DIGITS, f"base.cache={tmp_path}"]
    first, second = Subject.of(overrides), Subject.of(overrides)
    assert first.identity == second.identity
    assert first.data_identity("val", 50) == second.data_identity("val", 50)
    assert first.data_identity("val", 50)["samples"] == 50
    assert not first.network.training
    assert not any(p.requires_grad for p in first.network.parameters())
    other = Subject.of([*overrides, "seed=1"])
    assert other.weights != first.weights


def test_batches_are_the_same_in_every_call(tmp_path):
    subject = Subject.of([*DIGITS, f"base.cache={tmp_path}"])
    first, second = (subject.batches("val", 40, 16) for _ in range(2))
    assert [len(labels) for _, labels in first] == [16, 16, 8]
    for (x, _), (again, _) in zip(first, second, strict=True):
        assert torch.equal(x, again)


def test_a_run_folder_without_weights_is_refused(tmp_path):
    config = compose(DIGITS)
    (tmp_path / "config.json").write_text(json.dumps(plain_values(config)))
    with pytest.raises(HalutError, match="no exact network yet"):
        Subject.of([str(tmp_path)])


def test_a_run_folder_gives_its_exact_network(tmp_path):
    trained = Subject.of([*DIGITS, f"base.cache={tmp_path / 'cache'}"])
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(plain_values(trained.config)))
    save_network(folder / "base" / "weights.safetensors", trained.network)
    before = sorted(folder.rglob("*"))
    subject = Subject.of([str(folder)])
    assert (subject.identity, subject.folder) == (trained.identity, folder)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["/usr/bin/halut", "cost", "halut.C=1"], "halut cost halut.C=1"),
        (["/lib/halut/cli.py", "sensitivity", "--options", "pq K=4"],
         "halut sensitivity --options 'pq K=4'"),
        (["halut train", "seed=1"], "halut train seed=1"),
        (["train.py", "seed=1"], "python train.py seed=1"),
    ],
)  # fmt: skip
def test_the_command_of_a_record_can_be_typed_again(words, line, monkeypatch):
    monkeypatch.setattr("sys.argv", words)
    assert context()["command"] == line
