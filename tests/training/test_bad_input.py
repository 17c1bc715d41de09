"""Bad input: one clear message, a non-zero exit code, no traceback, nothing lost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from halut.models.build import build_model
from halut.models.weights import save_weights

# What `debug=smoke` cuts down, without the traceback it asks for.
QUICK = (
    "debug=smoke",
    "debug.traceback=false",
    "model.options.width=8",
)


def snapshot(folder: Path) -> dict[str, str]:
    """Digest of every file under a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(outcome, *words: str) -> None:
    """The command failed with one message that holds the words, and no traceback."""
    assert outcome.code != 0
    assert "Traceback" not in outcome.err + outcome.out
    message = " ".join(outcome.err.split())
    for word in words:
        assert word in message, f"{word!r} not in: {message}"
    assert "after training" not in outcome.out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("halut.C=0", ("halut.C must be at least 1, got 0",)),
        ("halut.C=1000", ("stack1.conv1 has 72 inputs: C must be in 1..72, got 1000",)),
        ("halut.K=12", ("K must be a power of two", "12")),
        ("halut.K=512", ("K must be in 2..256, got 512",)),
        ("halut.bits=1", ("halut.bits must be in 2..8",)),
        ("halut.estimator=soft", ("no estimator 'soft'", "flip, tree, identity, blend")),
        ("halut.C=abc", ("halut.C", "abc")),
        ("halut.Q=3", ("Q", "halut")),
        ("halut=cuckoo", ("cuckoo", "decision_tree", "pq", "tree")),
        ("policy.keep=[stack9.*]", ("'stack9.*' matches no layer", "stack1.conv2")),
        ("policy.only=[fc]", ("the policy replaces nothing",)),
        ("policy.kinds=[cubic]", ("unknown kind 'cubic'", "depthwise")),
        ("+policy.rules=[{nme: x}]", ("unknown key 'nme'", "kernel")),
        ("schedule.order=sideways", ("unknown schedule.order 'sideways'", "by_block")),
        ("+schedule.stages=[{sites: [stack1.conv1]}]", ("no stage replaces stack1.conv2",)),
        ("+optim.lr.tables=1", ("tables",)),
        ("ptq=[8,16]", ("ptq must be auto, none or widths in 2..8", "got a width of 16")),
        (
            "optim.optimizer=adamv",
            ("unknown optim.optimizer 'adamv'", "adam, ", "--help optim.optimizer"),
        ),
        ("optim.optimizer=lbfgs", ("optim.optimizer=lbfgs", "several times a step")),
        ("optim.optimizer=Muon", ("optim.optimizer=Muon", "2D parameters")),
        ("+optim.optimizer_options.eps=-1", ("optim.optimizer=adamw", "-1")),
        ("+optim.optimizer_options.beta=0.9", ("optim.optimizer_options.beta", "betas, eps")),
        ("+base.optimizer_options.lr=1", ("base.optimizer_options.lr", "betas, eps")),
        ("optim.optimizer_options.eps=1", ("write +optim.optimizer_options.eps=VALUE",)),
        ("optim.schedule=cosin", ("unknown optim.schedule 'cosin'", "cosine")),
        ("optim.schedule=plateau", ("ReduceLROnPlateau",)),
        ("optim.schedule=StepLR", ("optim.schedule=StepLR", "step_size")),
        ("loss.distill=2", ("loss.distill must be in 0..1",)),
        ("model.name=resnet0", ("resnet0", "resnet8")),
        ("data.batch_size=0", ("data.batch_size must be at least 1",)),
        ("trainer.devices=0", ("trainer.devices must be at least 1",)),
        (
            "trainer.precision=64-true",
            ("'64-true'", "choose one of: 32-true, bf16-mixed, 16-mixed"),
        ),
        ("trainer.precision=bf16-true", ("'bf16-true'", "32-true, bf16-mixed, 16-mixed")),
        ("trainer.precision=transformer-engine", ("32-true, bf16-mixed, 16-mixed",)),
        ("trainer.precision=64", ("'64'", "32-true, bf16-mixed, 16-mixed")),
        ("trainer.precision=16-mixed", ("needs a GPU", "32-true, bf16-mixed")),
        ("trainer.precision=16", ("needs a GPU", "32-true, bf16-mixed")),
        ("trainer.accelerator=tpu", ("unknown trainer.accelerator 'tpu'", "auto, cpu, gpu")),
        ("trainer.limit_test_batches=0", ("trainer.limit_test_batches must be at least 1",)),
        ("trainer.gradient_clip_val=-1", ("trainer.gradient_clip_val must be at least 0",)),
        ("trainer.threads=0", ("trainer.threads must be at least 1",)),
    ],
)
def test_refused_before_anything_is_written(train, tmp_path, override, words):
    outcome = train(*QUICK, f"run_dir={tmp_path / 'run'}", override)
    refused(outcome, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16", "32"])
def test_precisions_that_work(train, tmp_path, precision):
    options = ("policy.only=[stack3.conv2]", "baseline=false", f"trainer.precision={precision}")
    outcome = train(*QUICK, "trainer.accelerator=cpu", *options, f"run_dir={tmp_path / 'run'}")
    assert (outcome.code, outcome.err) == (0, "")


def test_a_gpu_that_is_not_there(train, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = train(*QUICK, "trainer=gpu", f"run_dir={tmp_path / 'run'}")
    refused(outcome, "trainer.accelerator=gpu: torch finds none here; use cpu, or auto")
    assert not (tmp_path / "run").exists()


def test_workers_without_shared_memory(train, tmp_path, monkeypatch):
    import os
    from types import SimpleNamespace

    small = SimpleNamespace(f_bavail=64, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    options = ("data.workers=2", "data.eval_batch_size=512", f"run_dir={tmp_path / 'run'}")
    outcome = train(*QUICK, *options)
    refused(outcome, "data.workers=2 need 1 MiB of shared memory", "--shm-size", "data.workers=0")
    assert not (tmp_path / "run").exists()


def test_a_batch_of_one_that_a_norm_cannot_train_on(train, tmp_path):
    model = ("model=any", "model.name=mobilenetv3_small_050", "data=digits")
    options = (*model, "data.batch_size=1", f"run_dir={tmp_path / 'run'}")
    outcome = train(*QUICK[:2], *options)
    refused(outcome, "blocks.1.0.bn2: a norm sees one value per channel", "data.batch_size=2")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_overwritten_by_another_configuration(train, tmp_path):
    run = tmp_path / "run"
    assert train(*QUICK, f"run_dir={run}", "policy.only=[stack3.conv2]").code == 0
    before = snapshot(run)
    refused(train(*QUICK, f"run_dir={run}", "halut.K=8"), "another configuration", "halut.K")
    assert snapshot(run) == before


def test_a_folder_that_is_no_run_is_left_alone(train, tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter one")
    refused(train(*QUICK, f"run_dir={tmp_path}"), "not empty and holds no run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_checkpoint_of_another_model(train, tmp_path):
    other = tmp_path / "other.safetensors"
    save_weights(other, build_model("resnet20", 10, 1).state_dict())
    outcome = train(*QUICK, f"run_dir={tmp_path / 'run'}", f"model.weights={other}")
    refused(outcome, str(other), "another")
    assert not (tmp_path / "run").exists()


def test_truncated_checkpoint(train, tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_weights(whole, build_model("resnet8", 10, 1, width=8).state_dict())
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(whole.read_bytes()[:-100])
    refused(train(*QUICK, f"run_dir={tmp_path / 'run'}", f"model.weights={torn}"), str(torn))
    assert not (tmp_path / "run").exists()


def test_plan_of_another_version(train, tmp_path):
    run = tmp_path / "run"
    assert train(*QUICK, f"run_dir={run}", "policy.only=[stack3.conv2]").code == 0
    plan = json.loads((run / "plan.json").read_text())
    plan["version"] = 99
    other = tmp_path / "plan.json"
    other.write_text(json.dumps(plan))
    outcome = train(*QUICK, f"run_dir={tmp_path / 'new'}", f"plan={other}")
    refused(outcome, str(other), "version 99")
    assert not (tmp_path / "new").exists()


def test_nan_in_captured_activations(train, tmp_path):
    network = build_model("resnet8", 10, 1, width=8)
    with torch.no_grad():
        network.get_parameter("stack2.conv1.weight")[0] = float("nan")
    weights = tmp_path / "nan.safetensors"
    save_weights(weights, network.state_dict())
    outcome = train(*QUICK, f"run_dir={tmp_path / 'run'}", f"model.weights={weights}")
    assert outcome.code != 0
    assert "Traceback" not in outcome.err
    assert "stack2.conv2: the captured activations hold NaN" in outcome.err


def test_data_root_without_permission(train, tmp_path, monkeypatch):
    import os

    real = os.access

    def denied(path, mode, **options):
        return not str(path).startswith(str(tmp_path / "locked")) and real(path, mode, **options)

    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", denied)  # root may read everything
    outcome = train(
        *QUICK,
        "data=fashion_mnist",
        f"data.root={tmp_path / 'locked'}",
        f"run_dir={tmp_path / 'run'}",
    )
    refused(outcome, str(tmp_path / "locked"), "permission")
    assert not (tmp_path / "run").exists()


def test_traceback_is_shown_where_debug_asks_for_it(train, tmp_path):
    outcome = train("debug=traceback", f"run_dir={tmp_path / 'run'}", "halut.C=0")
    assert outcome.code != 0
    assert "Traceback" in outcome.err
    assert "halut.C must be at least 1" in outcome.err


def test_damaged_last_checkpoint_keeps_the_run(train, tmp_path):
    run = tmp_path / "run"
    options = (*QUICK, f"run_dir={run}", "policy.only=[stack3.conv2]")
    assert train(*options).code == 0
    for name in ("report.json", "stage_00/stage.json"):
        (run / name).unlink()
    (run / "stage_00" / "last.ckpt").write_bytes(b"torn")
    (run / "state.json").unlink()  # says what the run was about to do
    before = snapshot(run)
    refused_by = train(*options)
    assert refused_by.code != 0
    assert "last.ckpt" in refused_by.err
    assert "Traceback" not in refused_by.err
    for name in ("state.json", "error.json"):  # the refusal is noted for the tables that list it
        (run / name).unlink()
    assert snapshot(run) == before


@pytest.mark.parametrize(
    "option",
    ["seed=-1", "seed=99999999999", "optim.lr.table=-1", "+schedule.lr.rest=-1", "base.lr=-1",
     "optim.weight_decay.rest=-1"],
)  # fmt: skip
def test_numbers_out_of_range_name_the_option(train, tmp_path, option):
    outcome = train(option, f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {option.lstrip('+').partition('=')[0]} must be ")
    assert not (tmp_path / "run").exists()
